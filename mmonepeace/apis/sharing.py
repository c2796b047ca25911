"""Embedders and predictors as folders and repositories: what is written, and what is read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from mmonepeace import checkpoint
from mmonepeace.apis.loading import find_tokenizer, to_dtype
from mmonepeace.spec import SAMPLE_RATE

if TYPE_CHECKING:
    from mmonepeace.apis.item_reader import ItemReader
    from mmonepeace.models.base import BackboneModel

# Option of `Embedder` and `Predictor` -> where config.json has it.
OPTIONS = {
    "image_size": ("image", "size"),
    "keep_ratio": ("image", "keep_ratio"),
    "fast_jpeg": ("image", "fast_jpeg"),
    "alpha": ("image", "alpha"),
    "window_seconds": ("audio", "window_seconds"),
    "hop_seconds": ("audio", "hop_seconds"),
}


class Shared(checkpoint.PushToHub):
    """An API with a model and a reader of items, as a folder or a repository.

    Attributes:
        stored: options among `OPTIONS` that a folder has.
    """

    stored: ClassVar[Sequence[str]]
    model: BackboneModel
    reader: ItemReader

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        **options: Any,
    ) -> Self:
        """Build the model that a name means.

        Args:
            name: a folder that `save_pretrained` wrote; "hf-hub:org/name", perhaps with "@revision"; or
                a published file, such as "one-peace.pt", in ./checkpoints.
            device: by default a GPU if there is one.
            dtype: of weights and activations; None takes that of the folder, float32 of a published file.
            options: of the class; by default those that were saved.

        Raises:
            CheckpointError: in one line, if there is no such model, or it is not what its config.json
                says.
            ValueError: for an unknown dtype.
        """
        own: Any = cls
        source = checkpoint.locate(name)
        if source.is_file():
            return own.from_checkpoint(source, device, dtype or "fp32", **options)
        saved = checkpoint.read_pretrained(source, cls.owner())
        model, before = cls._build(saved)
        _adopt_normalisation(model, saved.config)
        before["tokenizer"] = find_tokenizer(saved.tokenizer, saved.path)
        before |= _stored_options(saved.config, *cls.stored)
        saved.check_facts(own(model, **before).facts())
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = model.to(device, to_dtype(dtype or saved.config["dtype"]))
        return own(model, **{**before, **options})

    @classmethod
    def _build(cls, saved: checkpoint.Saved) -> tuple[BackboneModel, dict[str, Any]]:
        """The model of a folder, and options that its weights decide."""
        raise NotImplementedError

    def saved_parts(self) -> tuple[str, BackboneModel, dict[str, Any], str | None]:
        """See `PushToHub`."""
        tokenizer = self.reader.tokenizer
        return (
            self.owner(), self.model, self.facts(), tokenizer.to_json() if tokenizer else None
        )  # fmt: skip

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


def _stored_options(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The options among `names` that config.json has."""
    inputs = config["preprocessing"]
    places = {name: OPTIONS[name] for name in names}
    return {
        name: inputs[modality][key]
        for name, (modality, key) in places.items()
        if key in inputs.get(modality, {})
    }


def _adopt_normalisation(model: BackboneModel, config: Mapping[str, Any]) -> None:
    """Normalise images as config.json says."""
    from mmonepeace.models import MultimodalDataPreprocessor

    image = config["preprocessing"].get("image", {})
    if "mean" in image and "std" in image:
        model.data_preprocessor = MultimodalDataPreprocessor(image["mean"], image["std"])


def _numbers(values: Tensor) -> list[float]:
    """As short as they were written: 0.48145467, not 0.4814546704292297."""
    return [float(str(np.float32(x))) for x in values.flatten().tolist()]
