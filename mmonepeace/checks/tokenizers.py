"""The tokenizers that a recipe names, in its data sets and in its metrics."""

from mmengine.config import Config, ConfigDict
from mmengine.registry import TRANSFORMS

from mmonepeace.checks.data import dataset_configs, metric_configs
from mmonepeace.checks.errors import CheckError


def text_steps(cfg: Config) -> list[ConfigDict]:
    """The transforms with a tokenizer, of data sets and of metrics."""
    steps = [step for _, dataset in dataset_configs(cfg) for step in dataset.get("pipeline") or ()]
    steps += [metric.get("tokenize") or {} for _, metric in metric_configs(cfg)]
    return [step for step in steps if "tokenizer" in step]


def check_tokenizers(cfg: Config) -> None:
    """Check that the tokenizers of the pipelines are there and fit the model's vocabulary.

    Raises:
        CheckError: naming the file and what to do.
    """
    modalities = (cfg.model.get("backbone") or {}).get("modalities") or {}
    text = modalities.get("text") or {} if isinstance(modalities, dict) else {}
    tokenizers = [s for s in text_steps(cfg) if s["type"].split(".")[-1] == "Tokenize"]
    for path in sorted({step["tokenizer"] for step in tokenizers}):
        step = next(step for step in tokenizers if step["tokenizer"] == path)
        try:
            size = TRANSFORMS.build(step).tokenizer.vocab_size
        except (OSError, ValueError) as error:
            need = cfg.get("needs_tokenizer")
            raise CheckError(f"{error}{f' This recipe needs {need}.' if need else ''}") from None
        if text.get("vocab_size", size) < size:
            raise CheckError(
                f"{path} has {size} ids, but model.backbone.modalities.text.vocab_size is "
                f"{text['vocab_size']}. Set it to {size}, or use the tokenizer of the model."
            )
