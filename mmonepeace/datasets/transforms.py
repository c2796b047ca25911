"""Transforms from a record of a data set to the inputs of the model, for MMEngine's pipelines.

A record is a dict of raw values: `img_path` or `img`, `text`, `audio_path` or `audio`. Each transform
reads its own and leaves it as it is; it adds a tensor to `results["inputs"]`, a dict with one entry
per modality. `PackModalities` ends the pipeline.

Random transforms draw from `generator(results, self)`: a sample is the same whichever worker reads
it, also after resuming, and different in each epoch.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import BaseDataElement
from PIL import Image
from torch import Tensor

from mmonepeace import spec
from mmonepeace.datasets import audio_io, image_io, masking
from mmonepeace.datasets.sample_errors import CaptionError
from mmonepeace.datasets.tokenizer import Tokenizer, clean_caption
from mmonepeace.registry import TRANSFORMS

Results = dict[str, Any]
Keeps = dict[str, np.ndarray]
_META_KEYS = ("sample_idx", "img_path", "img_path_2", "text", "audio_path", "video_path", "key")
_META_KEYS += ("ori_shape", "scale_factor", "question_id", "answers")
_TARGET_KEYS = ("gt_label", "gt_score", "gt_box")


def first_of(results: Results, *keys: str) -> Any:
    """Value of the first of the keys that the record has."""
    for key in keys:
        if results.get(key) is not None:
            return results[key]
    raise KeyError(f"the record has none of {', '.join(keys)}; it has {', '.join(results)}.")


def generator(results: Results, transform: BaseTransform) -> np.random.Generator:
    """Random generator of one transform for one sample, from the `seed` that data sets give it."""
    if "seed" not in results:
        raise KeyError(
            f"{type(transform).__name__} is random, but the record has no seed. PairDataset and "
            "ShardDataset give one; set results['seed'] to a tuple of integers."
        )
    return np.random.default_rng((*results["seed"], zlib.crc32(type(transform).__name__.encode())))


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read an image and resize it: `img_path` or `img` to (3, H, W) uint8.

    `ori_shape` of the record is its height and width before that, and `scale_factor` the width and
    height of the result over its own; but not with `fast_jpeg`.

    Args:
        size: side in pixels, or (height, width).
        keep_ratio: see `image_io.resize`.
        crop_scale: for training, crop a random rectangle with a fraction of the area between these
            limits; pretraining has (0.9, 1.0). None takes the whole image.
        crop_ratio: limits of its width divided by its height.
        fast_jpeg: decode large JPEG files at a fraction of their size; pixels change a little.
        alpha: what becomes of transparency, see `image_io.to_rgb`.
        cache: keep the images of files in memory, as they are before the crop, or resized without
            one: for small data sets.
        second: read `img_path_2` or `img_2`, the second of two images.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = spec.PRETRAIN_IMG_SIZE,
        keep_ratio: bool = False,
        crop_scale: tuple[float, float] | None = None,
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        fast_jpeg: bool = False,
        alpha: str = "drop",
        cache: bool = False,
        second: bool = False,
    ) -> None:
        for name, limits in (("crop_scale", crop_scale or (1, 1)), ("crop_ratio", crop_ratio)):
            low, high = limits
            if not 0 < low <= high or (name == "crop_scale" and high > 1):
                most = " <= 1, fractions of the area" if name == "crop_scale" else ""
                raise ValueError(f"{name} is {limits}, expected 0 < low <= high{most}.")
        if min(size if isinstance(size, (tuple, list)) else [size]) < 1:
            raise ValueError(f"size is {size}, expected pixels, 1 or more.")
        self.alpha = image_io.check_alpha(alpha)
        self.size = size
        self.keep_ratio = keep_ratio
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio
        self.cached: dict[str, tuple[Any, tuple[int, int]]] | None = {} if cache else None
        self.suffix = "_2" if second else ""
        self.at_least = None
        if fast_jpeg:  # the smallest crop must be large enough
            fraction = min(1, crop_scale[0]) if crop_scale else 1
            self.at_least = math.ceil(image_io.fast_sides(size) / math.sqrt(fraction))

    def transform(self, results: Results) -> Results:
        """Add `inputs["image"]`, or `inputs["image_2"]`."""
        image, size = self._load(first_of(results, f"img_path{self.suffix}", f"img{self.suffix}"))
        if self.crop_scale:
            rng = generator(results, self)
            box = crop_box(rng, image.size, self.crop_scale, self.crop_ratio)
            image = self._resize(image_io.crop(image, box))
        results.setdefault("inputs", {})[f"image{self.suffix}"] = image
        if self.at_least is None:  # else it may have been decoded at a fraction of its size
            results.setdefault("ori_shape", size[::-1])
            width, height = size
            ratios = image.shape[2] / width, image.shape[1] / height
            results.setdefault("scale_factor", ratios)
        return results

    def _load(self, source: Any) -> tuple[Any, tuple[int, int]]:
        """What is cropped, a Pillow image; without a crop the tensor that the model gets; its size."""
        key = str(source) if isinstance(source, str | Path) else None
        if self.cached and key in self.cached:
            return self.cached[key]
        image: Any = image_io.to_rgb(source, self.at_least, self.alpha)
        size = image.size
        if not self.crop_scale:
            image = self._resize(image)
        if self.cached is not None and key is not None:
            self.cached[key] = image, size
        return image, size

    def _resize(self, image: Image.Image) -> Tensor:
        return image_io.to_tensor(image_io.resize(image, self.size, self.keep_ratio))


def crop_box(
    rng: np.random.Generator,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the first of ten random rectangles that fits.

    If none does, a central crop, as large as the limits of the ratio allow.

    Source: torchvision's random resized crop.
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
class DropWords(BaseTransform):
    """Leave words of a caption out at random, for training; before `Tokenize`.

    A model that sees each image of a small data set often then cannot know its captions by heart.

    Args:
        probability: of each word; of the words of a caption, one always stays.
    """

    def __init__(self, probability: float) -> None:
        if not 0 <= probability < 1:
            raise ValueError(f"probability is {probability}, expected 0 <= probability < 1.")
        self.probability = probability

    def transform(self, results: Results) -> Results:
        """Replace `text`."""
        rng = generator(results, self)
        words = first_of(results, "text").split()
        draws = rng.random(len(words))
        kept = [w for w, draw in zip(words, draws, strict=True) if draw >= self.probability]
        if words:
            results["text"] = " ".join(kept or [words[int(draws.argmax())]])
        return results


@TRANSFORMS.register_module()
class Tokenize(BaseTransform):
    """Turn `text`, a string, into (L,) int64 ids with the end token; a list of them, each.

    Args:
        tokenizer: a `tokenizer.json`, or a tokenizer.
        max_length: tokens kept, the end token not counted.
        cleaning: "hub", lower-case, as the official inference code, or "dataset", with
            `clean_caption` too; a caption of which nothing is left is broken. "none" keeps upper
            case, as the official code does in audio question answering.

    Raises:
        CaptionError: if a text cannot be encoded, or several are alike since their ends are cut off.
    """

    def __init__(
        self,
        tokenizer: str | Path | Tokenizer,
        max_length: int = spec.MAX_TEXT_TOKENS,
        cleaning: Literal["hub", "dataset", "none"] = "hub",
    ) -> None:
        if cleaning not in ("hub", "dataset", "none"):
            raise ValueError(f"cleaning is {cleaning!r}; choose 'hub', 'dataset' or 'none'.")
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}, expected 1 or more tokens.")
        self.tokenizer = _load_tokenizer(tokenizer)
        self.max_length = max_length
        self.cleaning = cleaning

    def transform(self, results: Results) -> Results:
        """Add `inputs["text"]`."""
        text = first_of(results, "text")
        ids = self._encode([text])[0] if isinstance(text, str) else self._encode(text)
        results.setdefault("inputs", {})["text"] = ids
        return results

    def _encode(self, given: Sequence[str]) -> list[Tensor]:
        texts = list(map(clean_caption, given)) if self.cleaning == "dataset" else given
        if not all(texts) and self.cleaning == "dataset":
            raise CaptionError(f"nothing is left of the caption {given[texts.index('')]!r}.")
        try:
            ids = self.tokenizer.encode_candidates(
                texts, self.max_length, lower=self.cleaning != "none"
            )
        except ValueError as error:
            raise CaptionError(str(error)) from None
        return list(map(torch.tensor, ids))


def _load_tokenizer(tokenizer: str | Path | Tokenizer) -> Tokenizer:
    return Tokenizer.from_file(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer


def _check_lengths(max_seconds: float | None, min_seconds: float) -> None:
    if min_seconds < 0 or (max_seconds is not None and not 0 < max_seconds >= min_seconds):
        raise ValueError(
            f"max_seconds is {max_seconds} and min_seconds {min_seconds}; expected 0 <= min_seconds "
            "<= max_seconds, and max_seconds above 0 or None."
        )


@TRANSFORMS.register_module()
class LoadAudio(BaseTransform):
    """Decode and standardise an audio clip, to (S,) float32.

    The clip is a file, `audio_path`, or in memory, `audio`: (samples, rate) or the bytes of a file.
    It is truncated to `max_seconds` (None keeps all), or repeated up to `min_seconds`.

    Args:
        max_seconds: see above.
        min_seconds: see above.
        cache: keep decoded files in memory, 230 MB an hour in each worker: for small data sets.
    """

    def __init__(
        self,
        max_seconds: float | None = spec.MAX_AUDIO_SECONDS,
        min_seconds: float = spec.MIN_AUDIO_SECONDS,
        cache: bool = False,
    ) -> None:
        _check_lengths(max_seconds, min_seconds)
        self.max_seconds = max_seconds
        self.min_seconds = min_seconds
        self.cached: dict[str, np.ndarray] | None = {} if cache else None

    def transform(self, results: Results) -> Results:
        """Add `inputs["audio"]`."""
        wave = self._load(first_of(results, "audio_path", "audio"))
        wave = audio_io.fit_length(wave, self.max_seconds, self.min_seconds)
        results.setdefault("inputs", {})["audio"] = torch.from_numpy(wave)
        return results

    def _load(self, source: Any) -> np.ndarray:
        if isinstance(source, tuple):
            return audio_io.standardise(audio_io.to_mono_16k(*source))
        if self.cached is None or isinstance(source, bytes):
            return audio_io.standardise(audio_io.load_audio(source))
        key = str(source)
        if key not in self.cached:
            self.cached[key] = audio_io.standardise(audio_io.load_audio(source))
        return self.cached[key]


@TRANSFORMS.register_module()
class PerturbAudio(BaseTransform):
    """Change a clip at random, for training; after `LoadAudio(max_seconds=None, min_seconds=0)`.

    In this order: speed, which moves pitch and formants too; equaliser; noise; crop. The result is
    standardised again and fits into the limits of length.

    Args:
        max_seconds: of the crop, at a random place. None keeps all.
        min_seconds: shorter clips are repeated up to it, see `LoadAudio`.
        speed: largest factor of the speed, and 1 over the smallest.
        equaliser: standard deviation in dB of the gain in each of eight bands, an octave wide.
        noise: smallest ratio of signal to noise in dB, the largest being 40 dB more; None adds none.
            The noise is white to brown.
        shift: seconds of silence, at most, in front of the clip.
    """

    def __init__(
        self,
        max_seconds: float | None = spec.MAX_AUDIO_SECONDS,
        min_seconds: float = spec.MIN_AUDIO_SECONDS,
        speed: float = 1.0,
        equaliser: float = 0.0,
        noise: float | None = None,
        shift: float = 0.0,
    ) -> None:
        _check_lengths(max_seconds, min_seconds)
        if speed < 1 or equaliser < 0 or shift < 0:
            raise ValueError(
                f"speed is {speed}, equaliser {equaliser} and shift {shift}; expected at least 1, 0 "
                "and 0."
            )
        self.max_seconds = max_seconds
        self.min_seconds = min_seconds
        self.speed = speed
        self.equaliser = equaliser
        self.noise = noise
        self.shift = shift

    def transform(self, results: Results) -> Results:
        """Replace `inputs["audio"]`."""
        rng = generator(results, self)
        wave = first_of(results.get("inputs", {}), "audio").numpy()
        speed = self.speed ** rng.uniform(-1, 1)
        if self.max_seconds is not None:  # no more than is used
            wave = _random_crop(rng, wave, math.ceil(self.max_seconds * speed * spec.SAMPLE_RATE))
        if speed != 1:
            # Linear interpolation: what it adds above the band is quieter than the noise of most clips.
            positions = np.arange(0, len(wave) - 1, speed)
            wave = np.interp(positions, np.arange(len(wave)), wave).astype(np.float32)
        if self.equaliser or self.noise is not None:
            wave = self._filter(rng, wave)
        if self.shift:
            silence = np.zeros(round(rng.uniform(0, self.shift) * spec.SAMPLE_RATE), np.float32)
            wave = np.concatenate([silence, wave])
        wave = audio_io.fit_length(wave, self.max_seconds, self.min_seconds)
        results["inputs"]["audio"] = torch.from_numpy(audio_io.standardise(wave))
        return results

    def _filter(self, rng: np.random.Generator, wave: np.ndarray) -> np.ndarray:
        """Multiply the spectrum by a smooth random gain, and add noise."""
        size = -(-len(wave) // 1024) * 1024
        spectrum = torch.fft.rfft(torch.from_numpy(wave), size)  # NumPy's is in double precision
        octaves = _octaves(len(spectrum))
        if self.equaliser:
            gains = np.interp(octaves, np.arange(9), rng.normal(0, self.equaliser, 9))
            spectrum *= torch.from_numpy(gains).float().mul_(math.log2(10) / 20).exp2_()
        if self.noise is not None:
            noise = torch.from_numpy(rng.standard_normal((len(spectrum), 2), np.float32))
            noise *= torch.from_numpy(octaves * -rng.uniform(0, 1)).float().exp2_()[:, None]
            ratio = self.noise + rng.uniform(0, 40)
            power, noise_power = (
                float(x.square().sum()) for x in (torch.view_as_real(spectrum), noise)
            )
            spectrum += torch.view_as_complex(noise) * math.sqrt(
                power / noise_power * 10 ** (-ratio / 10)
            )
        return torch.fft.irfft(spectrum, size)[: len(wave)].numpy()


@lru_cache(maxsize=16)
def _octaves(bins: int) -> np.ndarray:
    """(bins,) from 0 at 31.25 Hz, and below, to 8 at 8 kHz."""
    hertz = np.linspace(0, spec.SAMPLE_RATE / 2, bins)
    return np.log2(np.maximum(hertz, 31.25) / 31.25)


def _random_crop(rng: np.random.Generator, wave: np.ndarray, size: int) -> np.ndarray:
    start = int(rng.integers(max(len(wave) - size, 0) + 1))
    return wave[start : start + size]


@TRANSFORMS.register_module()
class MaskTokens(BaseTransform):
    """Choose the tokens that are masked in pretraining, after the loading transforms.

    There are two views of a sample: unimodal, each modality on its own, and joint.

    Args:
        stage: "vl", images and texts: the joint view first masks what the unimodal one shows; "al",
            audio and texts: the views are independent, and there is no unimodal view of the text.
        tokenizer: that of `Tokenize`, to know where words begin.
        ratios: masking ratios that differ from `masking.MASK_RATIOS[stage]`.

    Raises:
        ValueError: for an unknown stage, or a ratio of another name or outside 0..1.
    """

    def __init__(
        self,
        stage: Literal["vl", "al"],
        tokenizer: str | Path | Tokenizer,
        ratios: Mapping[str, float] | None = None,
    ) -> None:
        if stage not in masking.MASK_RATIOS:
            raise ValueError(f"stage is {stage!r}; choose one of {', '.join(masking.MASK_RATIOS)}.")
        defaults = masking.MASK_RATIOS[stage]
        for name, ratio in (ratios or {}).items():
            if name not in defaults or not 0 <= ratio <= 1:
                expected = f"expected {', '.join(defaults)} in 0..1"
                raise ValueError(f"ratios has {name}={ratio}, {expected}.")
        self.is_word_start = _load_tokenizer(tokenizer).is_word_start
        self.ratios = {**defaults, **(ratios or {})}
        self.views = {"vl": self._image_and_text, "al": self._audio_and_text}[stage]

    def transform(self, results: Results) -> Results:
        """Add `keeps`: view -> modality -> (P,) int64 array of visible positions; CLS is 0.

        The views are "alone" (unimodal) and "joint".
        """
        unimodal, joint = self.views(generator(results, self), results.get("inputs", {}))
        # Arrays: a worker passes each tensor in a file of its own, which takes half of its time.
        results["keeps"] = {"alone": unimodal, "joint": joint}
        return results

    def _image_and_text(self, rng: np.random.Generator, inputs: Results) -> tuple[Keeps, Keeps]:
        patches = math.prod(spec.patch_grid(*first_of(inputs, "image").shape[-2:]))
        starts, ratios = self._word_starts(inputs), self.ratios
        text = masking.keep_tokens(rng, starts, ratios["text"], ratios["joint_text"])
        image = masking.keep_patches(rng, patches, ratios["image"], ratios["joint_image"])
        return {"text": text[0], "image": image[0]}, {"text": text[1], "image": image[1]}

    def _audio_and_text(self, rng: np.random.Generator, inputs: Results) -> tuple[Keeps, Keeps]:
        frames = spec.num_audio_frames(len(first_of(inputs, "audio")))
        unimodal = {"audio": masking.keep_frames(rng, frames, self.ratios["audio"])}
        joint = {
            "text": masking.keep_words(rng, self._word_starts(inputs), self.ratios["joint_text"]),
            "audio": masking.keep_frames(rng, frames, self.ratios["joint_audio"]),
        }
        return unimodal, joint

    def _word_starts(self, inputs: Results) -> np.ndarray:
        return self.is_word_start[first_of(inputs, "text")[:-1]].numpy()  # without the end token


@TRANSFORMS.register_module()
class PackModalities(BaseTransform):
    """End of a pipeline: the inputs, the `keeps` of `MaskTokens`, and a data sample.

    The sample has the targets of the record as tensors: `gt_label`, `gt_score` and `gt_box`. Its meta
    information is `meta_keys` of the record. Both are as far as the record has them.
    """

    def __init__(self, meta_keys: Sequence[str] = _META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: Results) -> Results:
        """Reduce the record to `inputs`, `data_samples` and, if there are any, `keeps`."""
        if not results.get("inputs"):
            raise KeyError(
                "PackModalities found no inputs. Put LoadImage, Tokenize or LoadAudio before it."
            )
        meta = {key: results[key] for key in self.meta_keys if key in results}
        packed: Results = {key: results[key] for key in ("inputs", "keeps") if key in results}
        targets = {k: torch.as_tensor(results[k]) for k in _TARGET_KEYS if k in results}
        return {**packed, "data_samples": BaseDataElement(metainfo=meta, **targets)}
