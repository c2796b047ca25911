"""What a run starts from: weights and tokenizers."""

import re
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checks.config import text_steps, type_name, with_given_root
from mmonepeace.checks.report import Report

_FILES = ("checkpoint", "pretrained")  # keys of what parts of a model start from
# Where `--checkpoint` puts a file, see `run_options.set_checkpoint`.
_SET_BY_CHECKPOINT = ("model.init_cfg.checkpoint", "model.backbone.init_cfg.checkpoint")
_INIT = re.compile(r".*\.init_cfg(\.\d+)?|model\.teacher")


def check_weights(cfg: Config, report: Report) -> None:
    """Check that the weights which a run starts from exist, and read all of them once.

    That is every `checkpoint` of an `init_cfg`, `load_from` and `stage_one`, or instead of these the
    checkpoint that is resumed. Reading costs a pass at the speed of the disk, and finds damages, NaN
    and hostile files before anything is built. Addresses of the web are not looked at.
    """
    first, start = cfg.get("stage_one"), cfg.get("load_from")
    if first and cfg.model.get("stage") != "al":
        report.add("stage-one-unused", "config", path=first)
    elif first and not cfg.get("resume"):
        _check_file(first, report, "stage-one-missing")
    if start:
        need = cfg.get("needs_weights", "the model that load_from names")
        _check_file(start, report, "load-from-missing", need=need)
    for option, path in _pretrained(cfg.model).items():
        part = re.sub(r"(\.\d+)?\.\w+$", "", option)
        if part == "model.teacher":
            need = cfg.get("needs_teacher", "the model that teaches")
            _check_file(path, report, "teacher-missing", need=need)
            continue
        if option in _SET_BY_CHECKPOINT:
            need = cfg.get("needs_weights", "the pretrained weights of the backbone")
            _check_file(path, report, "weights-missing", need=need, part=part)
        else:
            _check_file(path, report, "init-missing", option=option, part=part)


def _check_file(path: str, report: Report, missing: str, **facts: Any) -> None:
    if "://" in path:
        return
    if not Path(path).exists():
        report.add(missing, "config", path=path, **facts)
        return
    try:
        weights, _ = checkpoint.read(path)
        with checkpoint.prefix_errors(path):
            checkpoint.refuse_non_finite(weights)
    except CheckpointError as error:
        report.add("weights-unusable", "config", error=str(error).rstrip("."))


def _pretrained(node: Any, option: str = "model") -> dict[str, str]:
    """Option of the config -> file, of all that parts of a model start from."""
    paths: dict[str, str] = {}
    if isinstance(node, list | tuple):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        for key, value in node.items():
            names_file = key in _FILES and isinstance(value, str)
            # Elsewhere than in an init_cfg it may be the name of a model.
            if names_file and (_INIT.fullmatch(option) or Path(value).is_file()):
                paths[f"{option}.{key}"] = value
            paths |= _pretrained(value, f"{option}.{key}")
    return paths


def check_tokenizers(cfg: Config, report: Report) -> None:
    """Check that the tokenizers of the pipelines exist and fit the model's vocabulary."""
    modalities = (cfg.model.get("backbone") or {}).get("modalities") or {}
    text = modalities.get("text") or {} if isinstance(modalities, dict) else {}
    steps = {s["tokenizer"]: s for s in text_steps(cfg) if type_name(s) == "Tokenize"}
    for path, step in sorted(steps.items()):
        try:
            size = TRANSFORMS.build(step).tokenizer.vocab_size
        except (OSError, ValueError) as error:
            need = with_given_root(cfg, cfg.get("needs_tokenizer") or "")
            advice = f" This recipe needs {need}" if need else ""
            report.add("tokenizer-unusable", "config", error=f"{error}{advice}".rstrip("."))
            continue
        expected = text.get("vocab_size", size)
        if expected < size:
            report.add("vocab-size", "config", path=path, size=size, vocab_size=expected)
