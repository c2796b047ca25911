"""Embedders and predictors as folders and repositories: what is written, and what is read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.spec import SAMPLE_RATE

if TYPE_CHECKING:
    from mmonepeace.apis.item_reader import ItemReader
    from mmonepeace.models.base import BackboneModel

# Option of `Embedder` and `Predictor` -> where config.json has it.
_OPTIONS = {
    "image_size": ("image", "size"),
    "keep_ratio": ("image", "keep_ratio"),
    "fast_jpeg": ("image", "fast_jpeg"),
    "alpha": ("image", "alpha"),
    "window_seconds": ("audio", "window_seconds"),
    "hop_seconds": ("audio", "hop_seconds"),
}


class Shared(checkpoint.PushToHub):
    """`save_pretrained` of an API with a model and a reader of items."""

    model: BackboneModel
    reader: ItemReader

    def save_pretrained(
        self,
        folder: str | Path,
        card: checkpoint.ModelCard | None = None,
        shard_size: int = checkpoint.SHARD_SIZE,
    ) -> None:
        """Write weights, config.json, the tokenizer and a model card, which `from_pretrained` reads.

        Args:
            folder: a new or empty one, or one that was written before, whose files are replaced once
                the new ones are complete.
            card: what only you know of the model, such as its license.
            shard_size: bytes of a file of weights, at most.

        Raises:
            CheckpointError: if the folder has other files or cannot be written.
        """
        tokenizer = self.reader.tokenizer
        checkpoint.write_pretrained(
            folder,
            self.owner(),
            self.model,
            self.facts(),
            tokenizer.to_json() if tokenizer else None,
            card,
            shard_size,
        )

    @classmethod
    def owner(cls) -> str:
        """The class that `config.json` names: that of the API, of subclasses too."""
        return next(c.__name__ for c in cls.__mro__ if Shared in c.__bases__)

    def facts(self) -> dict[str, Any]:
        """What config.json says besides the weights."""
        return {"preprocessing": self.preprocessing()}

    def preprocessing(self) -> dict[str, dict[str, Any]]:
        """What becomes of inputs: modality -> facts, as config.json has them."""
        reader, preprocessor = self.reader, self.model.data_preprocessor
        adapters = self.model.backbone.adapters
        known: dict[str, Any] = {
            "text": lambda _: {"max_tokens": reader.max_tokens, "lower_case": reader.lower},
            "image": lambda _: {
                "size": reader.image_size,
                "mean": _numbers(preprocessor.image_mean),
                "std": _numbers(preprocessor.image_std),
                "resampling": "bicubic",  # of `image_io.resize`
                "keep_ratio": reader.keep_ratio,
                "fast_jpeg": reader.fast_jpeg,
                "alpha": reader.alpha,
            },
            "audio": lambda adapter: {
                "sampling_rate": SAMPLE_RATE,
                "clip_seconds": adapter.clip_seconds,
                "window_seconds": reader.windows[0],
                "hop_seconds": reader.windows[1],
            },
        }
        return {name: known[name](x) if name in known else {} for name, x in adapters.items()}


def stored_options(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The options among `names` that config.json has."""
    inputs = config["preprocessing"]
    places = {name: _OPTIONS[name] for name in names}
    return {
        name: inputs[modality][key]
        for name, (modality, key) in places.items()
        if key in inputs.get(modality, {})
    }


def adopt_normalisation(model: BackboneModel, config: Mapping[str, Any]) -> None:
    """Normalise images as config.json says."""
    from mmonepeace.models import MultimodalDataPreprocessor

    image = config["preprocessing"].get("image", {})
    if "mean" in image and "std" in image:
        model.data_preprocessor = MultimodalDataPreprocessor(image["mean"], image["std"])


def _numbers(values: Tensor) -> list[float]:
    """As short as they were written: 0.48145467, not 0.4814546704292297."""
    return [float(str(np.float32(x))) for x in values.flatten().tolist()]
