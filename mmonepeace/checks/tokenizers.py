"""The tokenizers that a recipe names, in its data sets and in its metrics."""

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmonepeace.checks.config import text_steps, type_name
from mmonepeace.checks.report import Report


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
            text_of_need = f" This recipe needs {need}" if need else ""
            report.add("tokenizer-unusable", "config", error=f"{error}{text_of_need}".rstrip("."))
            continue
        expected = text.get("vocab_size", size)
        if expected < size:
            report.add("vocab-size", "config", path=path, size=size, vocab_size=expected)
