"""What a run starts from: weights and tokenizers."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from mmengine.runner import find_latest_checkpoint

from mmonepeace.checks.config import text_steps, type_name
from mmonepeace.checks.report import CheckError, Report


def check_weights(cfg: Config, report: Report) -> None:
    """Check that the weights which a run starts from exist."""

    def is_missing(path: str | None) -> bool:
        return not (not path or cfg.get("resume") or Path(path).exists())

    first, start = cfg.get("stage_one"), cfg.get("load_from")
    if first and cfg.model.get("stage") != "al":
        report.add("stage-one-unused", "config", path=first)
    elif is_missing(first):
        report.add("stage-one-missing", "config", path=first)
    if is_missing(start):
        need = cfg.get("needs_weights", "the model that load_from names")
        report.add("load-from-missing", "config", path=start, need=need)
    init_cfg = (cfg.model.get("backbone") or {}).get("init_cfg")
    path = init_cfg.get("checkpoint") if isinstance(init_cfg, dict) else None
    if path and "://" not in path and not Path(path).is_file():
        need = cfg.get("needs_weights", "the pretrained weights of the backbone")
        report.add("weights-missing", "config", path=path, need=need)


def check_tokenizers(cfg: Config, report: Report) -> None:
    """Check that the tokenizers of the pipelines exist and fit the model's vocabulary."""
    modalities = (cfg.model.get("backbone") or {}).get("modalities") or {}
    text = modalities.get("text") or {} if isinstance(modalities, dict) else {}
    steps = {s["tokenizer"]: s for s in text_steps(cfg) if type_name(s) == "Tokenize"}
    for path, step in sorted(steps.items()):
        try:
            size = TRANSFORMS.build(step).tokenizer.vocab_size
        except (OSError, ValueError) as error:
            need = cfg.get("needs_tokenizer")
            advice = f" This recipe needs {need}" if need else ""
            report.add("tokenizer-unusable", "config", error=f"{error}{advice}".rstrip("."))
            continue
        expected = text.get("vocab_size", size)
        if expected < size:
            report.add("vocab-size", "config", path=path, size=size, vocab_size=expected)


def find_checkpoint(path: str) -> str:
    """A checkpoint file: the path itself, or the newest one of a work directory.

    Raises:
        CheckError: if there is none.
    """
    checkpoint = find_latest_checkpoint(path) if Path(path).is_dir() else path
    if not checkpoint or not Path(checkpoint).is_file():
        raise CheckError(f"checkpoint {path} does not exist. Train one: tools/train.py CONFIG")
    return checkpoint
