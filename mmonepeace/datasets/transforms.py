"""From a record of a data set to what the model takes, in pipelines of MMEngine.

A record is a dict of raw things: `img_path` or `img`, `text`, `audio_path` or `audio`. Each
transform reads its own and leaves it as it is; it adds a tensor to `results["inputs"]`, a dict with
one entry per modality. `PackModalities` ends the pipeline.

Random transforms draw from `generator(results, self)`. Our data sets give each record a `seed`:
their own, the epoch and the number of the sample. So a sample looks the same whichever worker
prepares it, also in a run that was resumed, and different in each epoch.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement

from mmonepeace.datasets import audio_io, image_io, masking
from mmonepeace.datasets.broken import CaptionError
from mmonepeace.datasets.tokenizer import Tokenizer, clean_caption
from mmonepeace.registry import TRANSFORMS
from mmonepeace.spec import (
    MAX_AUDIO_SECONDS,
    MAX_TEXT_TOKENS,
    MIN_AUDIO_SECONDS,
    PRETRAIN_IMG_SIZE,
    num_audio_frames,
    patch_grid,
)

Results = dict[str, Any]
Keeps = dict[str, np.ndarray]

# Shares that are hidden. Source: arXiv 2305.11172.
MASK_RATIOS = {
    "vl": {"text": 0.15, "image": 0.75, "joint_text": 0.4, "joint_image": 0.6875},
    "al": {"audio": 0.55, "joint_text": 0.4, "joint_audio": 0.45},
}


def _first(results: Results, *keys: str) -> tuple[str, Any]:
    """The first of the keys that the record has, with its value."""
    for key in keys:
        if results.get(key) is not None:
            return key, results[key]
    raise KeyError(f"the record has none of {', '.join(keys)}; it has {', '.join(results)}.")


def generator(results: Results, transform: BaseTransform) -> np.random.Generator:
    """The random numbers of one transform for one sample; other transforms draw others."""
    if "seed" not in results:
        raise KeyError(
            f"{type(transform).__name__} is random, but the record has no seed. PairDataset and "
            "ShardDataset give one; set results['seed'] to a tuple of integers."
        )
    return np.random.default_rng((*results["seed"], zlib.crc32(type(transform).__name__.encode())))


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read a picture and resize it: `img_path` or `img` to (3, H, W) uint8.

    Args:
        size: side in pixels, or (height, width).
        keep_ratio: see `image_io.resize`.
        crop_scale: for training, cut out a random rectangle with this share of the area, from and
            to; pretraining has (0.9, 1.0). None takes the whole picture.
        crop_ratio: its width divided by its height, from and to.
        fast_jpeg: decode large JPEG files at a part of their size, see `image_io.to_rgb`; pixels
            change a little.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = PRETRAIN_IMG_SIZE,
        keep_ratio: bool = False,
        crop_scale: tuple[float, float] | None = None,
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        fast_jpeg: bool = False,
    ) -> None:
        for name, limits in (("crop_scale", crop_scale or (1, 1)), ("crop_ratio", crop_ratio)):
            low, high = limits
            if not 0 < low <= high:
                raise ValueError(f"{name} is {limits}, expected 0 < from <= to.")
        self.size = size
        self.keep_ratio = keep_ratio
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.at_least = None
        if fast_jpeg:
            # What is cut out must be large enough.
            share = min(1, crop_scale[0]) if crop_scale else 1
            self.at_least = math.ceil(image_io.fast_sides(size) / math.sqrt(share))

    def transform(self, results: Results) -> Results:
        """Add `inputs["image"]`."""
        _, source = _first(results, "img_path", "img")
        image = image_io.to_rgb(source, self.at_least)
        if self.crop_scale:
            rng = generator(results, self)
            image = image.crop(_crop_box(rng, image.size, self.crop_scale, self.crop_ratio))
        image = image_io.resize(image, self.size, self.keep_ratio)
        results.setdefault("inputs", {})["image"] = image_io.to_tensor(image)
        return results


def _crop_box(
    rng: np.random.Generator,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the first of ten random rectangles that fits.

    If none does: the middle, as large as the limits of the ratio allow.

    Source: the random resized crop that torchvision made the custom.
    """
    full_width, full_height = size
    areas = full_width * full_height * rng.uniform(*scale, size=10)
    ratios = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), size=10))
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (widths > 0) & (widths <= full_width) & (heights > 0) & (heights <= full_height)
    if fits.any():
        width, height = int(widths[fits][0]), int(heights[fits][0])
        left = int(rng.integers(full_width - width + 1))
        top = int(rng.integers(full_height - height + 1))
    else:
        width = min(full_width, max(1, round(full_height * ratio[1])))
        height = min(full_height, max(1, round(full_width / ratio[0])))
        left, top = (full_width - width) // 2, (full_height - height) // 2
    return left, top, left + width, top + height


@TRANSFORMS.register_module()
class Tokenize(BaseTransform):
    """Turn `text`, a string, into (L,) int64 ids with the end token.

    Args:
        tokenizer: a `tokenizer.json`, or a tokenizer.
        max_length: tokens kept, the end token not counted.
        cleaning: "hub", what the official inference code does, or "dataset", its training data's
            clean-up of captions besides; a caption of which nothing is left is broken.
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
            if not text:
                raise CaptionError(f"nothing is left of the caption {results['text']!r}.")
        try:
            (ids,) = self.tokenizer.encode([text], self.max_length)
        except ValueError as error:
            raise CaptionError(str(error)) from None
        results.setdefault("inputs", {})["text"] = torch.tensor(ids)
        return results


@TRANSFORMS.register_module()
class LoadAudio(BaseTransform):
    """Decode and standardise a clip, to (S,) float32.

    It is a file, `audio_path`, or in memory, `audio`: (samples, rate) or the bytes of a file.

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
        _, source = _first(results, "audio_path", "audio")
        raw = isinstance(source, tuple)
        wave = audio_io.to_mono_16k(*source) if raw else audio_io.load_audio(source)
        wave = audio_io.fit_length(audio_io.standardise(wave), self.max_seconds, self.min_seconds)
        results.setdefault("inputs", {})["audio"] = torch.from_numpy(wave)
        return results


@TRANSFORMS.register_module()
class MaskTokens(BaseTransform):
    """Choose what a masked model sees of a sample, alone and joint; after the loading transforms.

    Args:
        stage: "vl", images and texts: the joint view hides first what the lone one shows; "al",
            sounds and texts: the views are independent, and a text has none alone.
        tokenizer: that of `Tokenize`, to know where words begin.
        ratios: shares to hide, where they depart from `MASK_RATIOS[stage]`.

    Raises:
        ValueError: for an unknown stage, or a ratio that it does not know or outside 0..1.
    """

    def __init__(
        self,
        stage: Literal["vl", "al"],
        tokenizer: str | Path | Tokenizer,
        ratios: Mapping[str, float] | None = None,
    ) -> None:
        if stage not in MASK_RATIOS:
            raise ValueError(f"stage is {stage!r}; choose one of {', '.join(MASK_RATIOS)}.")
        defaults = MASK_RATIOS[stage]
        for name, ratio in (ratios or {}).items():
            if name not in defaults or not 0 <= ratio <= 1:
                raise ValueError(
                    f"ratios has {name}={ratio}, expected {', '.join(defaults)} in 0..1."
                )
        known = isinstance(tokenizer, Tokenizer)
        tokenizer = tokenizer if known else Tokenizer.from_file(tokenizer)
        self.is_word_start = tokenizer.is_word_start
        self.ratios = {**defaults, **(ratios or {})}
        self.views = {"vl": self._image_and_text, "al": self._audio_and_text}[stage]

    def transform(self, results: Results) -> Results:
        """Add `keeps`: "alone" and "joint" -> modality -> (P,) int64 array of positions, CLS is 0."""
        alone, joint = self.views(generator(results, self), results.get("inputs", {}))
        # Arrays: a worker hands over each tensor in a file of its own, which takes half of its time.
        results["keeps"] = {"alone": alone, "joint": joint}
        return results

    def _image_and_text(self, rng: np.random.Generator, inputs: Results) -> tuple[Keeps, Keeps]:
        _, image = _first(inputs, "image")
        patches = math.prod(patch_grid(*image.shape[-2:]))
        views = {
            "text": masking.keep_tokens(
                rng, self._word_starts(inputs), self.ratios["text"], self.ratios["joint_text"]
            ),
            "image": masking.keep_patches(
                rng, patches, self.ratios["image"], self.ratios["joint_image"]
            ),
        }
        alone, joint = ({name: pair[view] for name, pair in views.items()} for view in (0, 1))
        return alone, joint

    def _audio_and_text(self, rng: np.random.Generator, inputs: Results) -> tuple[Keeps, Keeps]:
        _, wave = _first(inputs, "audio")
        frames = num_audio_frames(len(wave))
        alone = {"audio": masking.keep_frames(rng, frames, self.ratios["audio"])}
        joint = {
            "text": masking.keep_words(rng, self._word_starts(inputs), self.ratios["joint_text"]),
            "audio": masking.keep_frames(rng, frames, self.ratios["joint_audio"]),
        }
        return alone, joint

    def _word_starts(self, inputs: Results) -> np.ndarray:
        _, ids = _first(inputs, "text")
        return self.is_word_start[ids[:-1]].numpy()  # without the end token


@TRANSFORMS.register_module()
class PackModalities(BaseTransform):
    """End of a pipeline: the inputs, and a data sample with what else the model or a metric needs.

    The `keeps` of `MaskTokens` go with them.

    Args:
        meta_keys: entries of the record that become meta information, where it has them.
    """

    def __init__(
        self, meta_keys: Sequence[str] = ("sample_idx", "img_path", "text", "audio_path", "key")
    ) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: Results) -> Results:
        """Reduce the record to `inputs`, `data_samples` and, where there are any, `keeps`."""
        if not results.get("inputs"):
            raise KeyError(
                "PackModalities found no inputs. Put LoadImage, Tokenize or LoadAudio before it."
            )
        meta = {key: results[key] for key in self.meta_keys if key in results}
        packed = {"inputs": results["inputs"], "data_samples": BaseDataElement(metainfo=meta)}
        if "keeps" in results:
            packed["keeps"] = results["keeps"]
        return packed
