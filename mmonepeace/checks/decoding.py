"""Image, label map and audio files, each decoded once into what the checks need to know of it."""

import hashlib
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

THUMBNAIL = 16  # side in pixels of the thumbnails that images are compared by
_ROTATIONS = range(2, 9)  # EXIF's orientations that change an image
_MAX_COLOURS = 64  # that are kept of a label map in colours
_local = threading.local()  # warnings about the file that a thread is reading


@dataclass(frozen=True, eq=False)
class ImageInfo:
    """What is known of an image.

    Attributes:
        path: its file.
        error: why it cannot be read; the rest is not set then.
        size: (width, height) as training sees it, rotated as its EXIF data say.
        stored_size: (width, height) as stored in the file.
        orientation: EXIF's number, 1 for upright.
        exif_error: what is wrong with its EXIF data.
        mode: Pillow's name of its channels.
        format: Pillow's name of its format.
        for_opencv: whether OpenCV, which training decodes with, supports such files.
        digest: equal for images with equal pixels, whatever their format.
        thumbnail: (THUMBNAIL * THUMBNAIL,) uint8, grey.
        constant: whether it has a single colour.
    """

    path: str
    error: str = ""
    size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    orientation: int = 1
    exif_error: str = ""
    mode: str = ""
    format: str = ""
    for_opencv: bool = True
    digest: bytes = b""
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros(THUMBNAIL**2, np.uint8))
    constant: bool = False


@dataclass(frozen=True, eq=False)
class LabelMap:
    """What is known of a label map.

    Attributes:
        path: its file.
        error: why it cannot be read; the rest is not set then.
        size: (width, height) as stored in the file; nothing rotates label maps.
        mode: Pillow's name of its channels.
        lossy: its format, where that changes values.
        channels: 1 is what is expected.
        fractional: whether it has values that are not integers.
        values: label value -> pixels; empty where there are several channels.
        colours: label value -> its colour in the palette, of the values that occur. Where there are
            several channels, the colours that occur.
        digest: equal for label maps with equal values.
    """

    path: str
    error: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    lossy: str = ""
    channels: int = 1
    fractional: bool = False
    values: dict[int, int] = field(default_factory=dict)
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)
    digest: bytes = b""


@dataclass(frozen=True, eq=False)
class AudioInfo:
    """What is known of an audio clip; `digest` is equal for equal samples."""

    path: str
    error: str = ""
    digest: bytes = b""


Record = ImageInfo | LabelMap | AudioInfo
Job = tuple[Callable[[str], Record], str]  # a reader, and the path of a file


def read_files(jobs: Sequence[Job], seconds: float | None = None) -> dict[Job, Any]:
    """Read files in parallel, each once.

    Args:
        jobs: what to read.
        seconds: stop after so long; files are read in a random order then.

    Returns:
        what the readers made of the files that were read.
    """
    from tqdm import tqdm

    def collect(message: Warning | str, *_: Any, **__: Any) -> None:
        getattr(_local, "messages", []).append(str(message))

    unique, records = list(dict.fromkeys(jobs)), {}
    if seconds is not None:
        random.Random(0).shuffle(unique)
    deadline = time.monotonic() + (seconds or float("inf"))
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("always")  # Pillow only warns of broken EXIF data
        warnings.showwarning = collect
        results = pool.map(lambda job: job[0](job[1]), unique)
        progress = tqdm(results, "reading files", len(unique), leave=False, unit="file")
        for job, record in zip(unique, progress, strict=True):
            records[job] = record
            if time.monotonic() > deadline:
                pool.shutdown(cancel_futures=True)
                break
    return records


def read_image(path: str) -> ImageInfo:
    """Decode an image and describe it."""
    try:
        return _describe_image(path)
    except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
        return ImageInfo(path, error=reason_of(path, error))


def _describe_image(path: str) -> ImageInfo:
    _local.messages = []
    _, image = _decode(path)
    exif, orientation, exif_error, upright = image.info.get("exif"), 1, "", image
    try:
        tags = image.getexif()
        orientation = tags.get(ExifTags.Base.Orientation, 1)
        upright = ImageOps.exif_transpose(image)
        if exif and not tags:
            exif_error = "nothing of them can be read"
    except Exception as error:  # noqa: BLE001  (broken EXIF data fail in many ways)
        exif_error = str(error) or type(error).__name__
    exif_error = exif_error or next((m for m in _local.messages if "EXIF" in m), "")
    pixels = np.asarray(_eight_bits(upright))
    deep = image.mode[0] in "IF"
    grey = Image.fromarray(pixels).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return ImageInfo(
        path,
        size=upright.size,
        stored_size=image.size,
        orientation=orientation if orientation in _ROTATIONS else 1,
        exif_error=exif_error.strip(),
        mode=image.mode,
        format=image.format or "",
        for_opencv=cv2.haveImageReader(path),
        # 8 bits would make dark images of 16 bits equal.
        digest=digest_of(np.asarray(upright) if deep else pixels),
        thumbnail=np.asarray(grey).ravel(),
        constant=bool((pixels == pixels[:1, :1]).all()),
    )


def read_label_map(path: str) -> LabelMap:
    """Decode a label map and count its values."""
    try:
        return _describe_label_map(path)
    except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
        return LabelMap(path, error=reason_of(path, error))


def _describe_label_map(path: str) -> LabelMap:
    content, image = _decode(path)
    labels = np.asarray(image)
    lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8 " in content[:64])
    common = {
        "size": image.size,
        "mode": image.mode,
        "lossy": image.format if lossy else "",
        "digest": digest_of(labels),
    }
    if labels.ndim != 2:
        weights = 256 ** np.arange(labels.shape[2])
        packed = np.unique(labels.astype(np.int64) @ weights)  # a tenth of the time of axis=...
        colours = [tuple(int(v // w % 256) for w in weights) for v in packed[:_MAX_COLOURS]]
        channels = labels.shape[2]
        return LabelMap(path, channels=channels, colours=dict(enumerate(colours)), **common)
    whole = np.trunc(np.nan_to_num(labels)).astype(np.int64) if labels.dtype.kind == "f" else labels
    if whole.dtype == np.uint8:
        counts = np.bincount(whole.ravel(), minlength=256)
        values = {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    else:
        unique = zip(*np.unique(whole, return_counts=True), strict=True)
        values = {int(value): int(count) for value, count in unique}
    palette = image.getpalette() if image.mode == "P" else None
    known = [v for v in values if palette and 3 * v + 3 <= len(palette)]
    return LabelMap(
        path,
        values=values,
        fractional=whole is not labels and not np.array_equal(whole, labels),
        colours={v: tuple(palette[3 * v : 3 * v + 3]) for v in known},
        **common,
    )


# ------------------------------------------------------------------------------------- decoding


def _decode(path: str) -> tuple[bytes, Image.Image]:
    """The bytes of a file and its first frame.

    Raises:
        OSError and others: if it cannot be read, or is truncated.
    """
    content = Path(path).read_bytes()
    if not content:
        raise ValueError("the file is empty (0 bytes)")
    image = Image.open(BytesIO(content))
    if image.format == "PNG":
        image.verify()  # decoding alone ignores wrong checksums and a missing end
        image = Image.open(BytesIO(content))
    image.load()
    # libjpeg fills in what is missing, for instance in a download that was padded with zeros.
    if image.format == "JPEG" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("the file has no end: it is truncated or partly overwritten")
    return content, image


def reason_of(path: str, error: Exception) -> str:
    """What is wrong with a file, in the words of its decoder."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a format that Pillow supports"
    return str(error).replace(str(path), "it").strip() or type(error).__name__


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, without the warnings and the clipping of Pillow's conversion."""
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        span = values.max() - values.min() or 1
        image = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def digest_of(array: np.ndarray) -> bytes:
    """A few bytes that are equal only for equal arrays."""
    state = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).tobytes())
    return state.digest()
