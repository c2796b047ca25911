"""From a record of a data set to what the model takes, in pipelines of MMEngine.

A record is a dict of raw things: `img_path` or `img`, `text`, `audio_path` or `audio`. Each
transform reads its own and leaves it as it is; it adds a tensor to `results["inputs"]`, a dict with
one entry per modality. `PackModalities` ends the pipeline.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement

from mmonepeace.datasets import audio_io, image_io
from mmonepeace.datasets.tokenizer import Tokenizer, clean_caption
from mmonepeace.registry import TRANSFORMS
from mmonepeace.spec import (
    MAX_AUDIO_SECONDS,
    MAX_TEXT_TOKENS,
    MIN_AUDIO_SECONDS,
    PRETRAIN_IMG_SIZE,
)

Results = dict[str, Any]


def _first(results: Results, *keys: str) -> tuple[str, Any]:
    """The first of the keys that the record has, with its value."""
    for key in keys:
        if results.get(key) is not None:
            return key, results[key]
    raise KeyError(f"the record has none of {', '.join(keys)}; it has {', '.join(results)}.")


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read a picture and resize it: `img_path` or `img` to (3, H, W) uint8.

    Args:
        size: side in pixels, or (height, width).
        keep_ratio: see `image_io.resize`.
    """

    def __init__(
        self, size: int | tuple[int, int] = PRETRAIN_IMG_SIZE, keep_ratio: bool = False
    ) -> None:
        self.size = size
        self.keep_ratio = keep_ratio

    def transform(self, results: Results) -> Results:
        """Add `inputs["image"]`."""
        _, source = _first(results, "img_path", "img")
        image = image_io.resize(image_io.to_rgb(source), self.size, self.keep_ratio)
        results.setdefault("inputs", {})["image"] = image_io.to_tensor(image)
        return results


@TRANSFORMS.register_module()
class Tokenize(BaseTransform):
    """Turn `text`, a string, into (L,) int64 ids with the end token.

    Args:
        tokenizer: a `tokenizer.json`, or a tokenizer.
        max_length: tokens kept, the end token not counted.
        cleaning: "hub", what the official inference code does, or "dataset", its training data's
            clean-up of captions besides.
    """

    def __init__(
        self,
        tokenizer: str | Path | Tokenizer,
        max_length: int = MAX_TEXT_TOKENS,
        cleaning: Literal["hub", "dataset"] = "hub",
    ) -> None:
        if cleaning not in ("hub", "dataset"):
            raise ValueError(f"cleaning {cleaning!r} is neither 'hub' nor 'dataset'.")
        known = isinstance(tokenizer, Tokenizer)
        self.tokenizer = tokenizer if known else Tokenizer.from_file(tokenizer)
        self.max_length = max_length
        self.cleaning = cleaning

    def transform(self, results: Results) -> Results:
        """Add `inputs["text"]`."""
        _, text = _first(results, "text")
        if self.cleaning == "dataset":
            text = clean_caption(text)
        (ids,) = self.tokenizer.encode([text], self.max_length)
        results.setdefault("inputs", {})["text"] = torch.tensor(ids)
        return results


@TRANSFORMS.register_module()
class LoadAudio(BaseTransform):
    """Decode and standardise a clip: `audio_path`, or `audio` = (samples, rate), to (S,) float32.

    Args:
        max_seconds: the first of them are kept; None keeps all.
        min_seconds: shorter clips are repeated up to it.
    """

    def __init__(
        self,
        max_seconds: float | None = MAX_AUDIO_SECONDS,
        min_seconds: float = MIN_AUDIO_SECONDS,
    ) -> None:
        self.max_seconds = max_seconds
        self.min_seconds = min_seconds

    def transform(self, results: Results) -> Results:
        """Add `inputs["audio"]`."""
        key, source = _first(results, "audio_path", "audio")
        wave = audio_io.to_mono_16k(*source) if key == "audio" else audio_io.load_audio(source)
        wave = audio_io.fit_length(audio_io.standardise(wave), self.max_seconds, self.min_seconds)
        results.setdefault("inputs", {})["audio"] = torch.from_numpy(wave)
        return results


@TRANSFORMS.register_module()
class PackModalities(BaseTransform):
    """End of a pipeline: the inputs, and a data sample with what else the model or a metric needs.

    Args:
        meta_keys: entries of the record that become meta information, where it has them.
    """

    def __init__(
        self, meta_keys: Sequence[str] = ("sample_idx", "img_path", "text", "audio_path")
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: Results) -> Results:
        """Reduce the record to `inputs` and `data_samples`."""
        if not results.get("inputs"):
            raise KeyError(
                "PackModalities found no inputs. Put LoadImage, Tokenize or LoadAudio before it."
            )
        meta = {key: results[key] for key in self.meta_keys if key in results}
        return {"inputs": results["inputs"], "data_samples": BaseDataElement(metainfo=meta)}
