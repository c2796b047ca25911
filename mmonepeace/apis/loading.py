"""The model of a checkpoint or a config, and its tokenizer.

MMEngine and the models are imported when a model is built, not with the API.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmonepeace import checkpoint
from mmonepeace.datasets.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mmonepeace.models import OnePeaceClassifier, OnePeaceRetriever
    from mmonepeace.models.base import BackboneModel

DTYPES: dict[str, torch.dtype] = {  # of each `Dtype`
    **dict.fromkeys(("fp32", "float32"), torch.float32),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp16", "float16"), torch.float16),
}


def to_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A key of `DTYPES`, or one of its values, as a torch dtype; another one is a ValueError."""
    known = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if known is None or known not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    return known


def load_retriever(
    path: Path, projections: bool, adapter: Path | None = None
) -> tuple[OnePeaceRetriever, Path]:
    """Build the model that a checkpoint or a config describes, see `Embedder.from_checkpoint`.

    Returns the model with its weights, and the path of its checkpoint. Raises a CheckpointError if
    the file cannot be used, or lacks `projections` that are wanted, and a ValueError if a config
    has no retriever, or names no checkpoint.
    """
    if path.suffix == ".py":
        if adapter:
            raise ValueError(f"{path} is a config: name the checkpoint that {adapter} adapts.")
        return _from_config(path)
    path = checkpoint.find(path)
    return build_retriever(checkpoint.read_own(path, adapter), path, projections), path


def build_retriever(
    converted: checkpoint.Conversion,
    path: Path,
    projections: bool,
    saved: checkpoint.Saved | None = None,
) -> OnePeaceRetriever:
    """The retriever of weights that were read from a path, see `load_retriever`.

    Of a folder that was `saved`, the weights have to be those of the model, and no others.
    """
    from mmonepeace.models import OnePeaceRetriever

    projected = any(name.startswith("projections.") for name in converted.weights)
    if projections and not projected:
        raise checkpoint.CheckpointError(
            f"{path}: has no projections, so it gives no embeddings. Use a file of the pretrained "
            "or a retrieval model, not one of its vision branch."
        )
    with checkpoint.prefix_errors(path):
        config = checkpoint.infer_config(converted.weights, converted.meta)
        # On the meta device the tensors of the file become the weights: nothing is allocated twice.
        with torch.device("meta"), checkpoint.explain_broken_file("a ONE-PEACE encoder"):
            model = OnePeaceRetriever(config)
    if not projected:
        model.projections.clear()
    if saved:
        saved.check_weights(model)
    model.load_checkpoint(str(path), converted=converted)
    return model


def load_predictor(
    path: Path, adapter: Path | None = None
) -> tuple[OnePeaceClassifier, list[str] | None, Path]:
    """Build the fine-tuned model that a checkpoint describes, see `Predictor.from_checkpoint`.

    Returns the model with its weights, the names of its classes if it has them, and the path of its
    checkpoint. Raises a CheckpointError if the file cannot be used or is of a retriever.
    """
    path = checkpoint.find(path)
    return *build_predictor(checkpoint.read_own(path, adapter), path), path


def build_predictor(
    converted: checkpoint.Conversion, path: Path, saved: checkpoint.Saved | None = None
) -> tuple[OnePeaceClassifier, list[str] | None]:
    """The fine-tuned model of weights that were read from a path, and names of its classes.

    For `saved` see `build_retriever`.
    """
    from mmonepeace.models import OnePeaceClassifier
    from mmonepeace.registry import MODELS

    with checkpoint.prefix_errors(path):
        config = checkpoint.infer_model(converted.weights, converted.meta)
        classes = config.pop("classes")
        with torch.device("meta"), checkpoint.explain_broken_file("a fine-tuned model"):
            model = MODELS.build(config)
        if not isinstance(model, OnePeaceClassifier):
            raise checkpoint.CheckpointError(
                "it is of retrieval: it gives embeddings. Use Embedder, mmonepeace embed and mmonepeace search."
            )
    if saved:
        saved.check_weights(model)
    model.load_checkpoint(str(path), converted=converted)
    return model, classes


def find_tokenizer(tokenizer: str | Path | Tokenizer | None, path: Path) -> Tokenizer | None:
    """A tokenizer, or that of a file, by default of `tokenizer.json` beside a checkpoint."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    beside = path.parent / "tokenizer.json"
    file = tokenizer or (beside if beside.is_file() else None)
    return Tokenizer.from_file(file) if file else None


def check_vocabulary(model: BackboneModel, tokenizer: Tokenizer | None) -> None:
    """Raise a ValueError for a tokenizer with ids that a model does not know."""
    adapters = model.backbone.adapters
    if tokenizer and "text" in adapters:
        known = adapters["text"].embed_tokens.num_embeddings
        if tokenizer.vocab_size > known:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {known}. Use the "
                "tokenizer.json that the model was trained with."
            )


def _from_config(path: Path) -> tuple[OnePeaceRetriever, Path]:
    from mmengine.config import Config

    from mmonepeace.models import OnePeaceRetriever
    from mmonepeace.registry import MODELS

    config = Config.fromfile(path)
    source = config.get("load_from") or (config.model.get("init_cfg") or {}).get("checkpoint")
    model = MODELS.build(config.model)
    if not isinstance(model, OnePeaceRetriever) or not source:
        raise ValueError(
            f"{path}: the model is {type(model).__name__} with weights from {source}; expected an "
            "OnePeaceRetriever with init_cfg=dict(type='Pretrained', checkpoint=...) or load_from."
        )
    model.load_checkpoint(source)
    return model, Path(source)
