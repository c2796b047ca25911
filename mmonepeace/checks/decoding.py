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
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmonepeace.console import progress_bar
from mmonepeace.datasets import image_io
from mmonepeace.datasets.sample_errors import reason

THUMBNAIL = 16  # side in pixels of the thumbnails that images are compared by
_MAX_COLOURS = 64  # that are kept of a label map in colours
_local = threading.local()  # warnings about the file that a thread is reading


@dataclass(frozen=True, eq=False)
class FileInfo:
    """What is known of a file: its path, why it cannot be read, else a digest of what is in it.

    Digests are equal for equal pixels, label values or audio samples, whatever the format. Where
    there is an error, nothing else is set.
    """

    path: str
    error: str = ""
    digest: bytes = b""


@dataclass(frozen=True, eq=False)
class AudioInfo(FileInfo):
    """What is known of an audio clip.

    Attributes:
        warnings: of its decoder.
        silent: whether all samples are equal.
    """

    warnings: tuple[str, ...] = ()
    silent: bool = False


@dataclass(frozen=True, eq=False)
class VideoInfo(FileInfo):
    """What is known of a video; its digest is of the first, the middle and the last frame."""


@dataclass(frozen=True, eq=False)
class ImageInfo(FileInfo):
    """What is known of an image.

    Attributes:
        size: (width, height) as training sees it, rotated as its EXIF data say.
        stored_size: (width, height) as stored in the file.
        orientation: EXIF's number, 1 for upright.
        exif_error: what is wrong with its EXIF data.
        mode: Pillow's name of its channels.
        format: Pillow's name of its format.
        for_opencv: whether OpenCV, which training decodes with, supports such files.
        thumbnail: (THUMBNAIL * THUMBNAIL,) uint8, grey.
        constant: whether it has a single colour.
        in_alpha: whether that is because all that it shows is in its transparency.
    """

    size: tuple[int, int] = (0, 0)
    stored_size: tuple[int, int] = (0, 0)
    orientation: int = 1
    exif_error: str = ""
    mode: str = ""
    format: str = ""
    for_opencv: bool = True
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros(THUMBNAIL**2, np.uint8))
    constant: bool = False
    in_alpha: bool = False


@dataclass(frozen=True, eq=False)
class LabelMap(FileInfo):
    """What is known of a label map.

    Attributes:
        size: (width, height) as stored in the file; nothing rotates label maps.
        mode: Pillow's name of its channels.
        lossy: its format, where that changes values.
        channels: 1 is what is expected.
        fractional: whether it has values that are not integers.
        values: label value -> pixels; empty where there are several channels.
        colours: label value -> its colour in the palette, of the values that occur. Where there are
            several channels, the colours that occur.
    """

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    lossy: str = ""
    channels: int = 1
    fractional: bool = False
    values: dict[int, int] = field(default_factory=dict)
    colours: dict[int, tuple[int, ...]] = field(default_factory=dict)


Describe = Callable[[str], dict[str, Any]]  # path -> fields of a FileInfo
Job = tuple[Callable[[str], FileInfo], str]  # a reader, and the path of a file


def read_files(
    jobs: Sequence[Job], seconds: float | None = None, most: int | None = None
) -> dict[Job, Any]:
    """Read files in parallel, each once: all of them, or in a random order for some seconds.

    Args:
        jobs: readers and files.
        seconds: to read for; None reads all.
        most: files that are read in that time at most.
    """

    def collect(message: Warning | str, *_: Any, **__: Any) -> None:
        getattr(_local, "messages", []).append(str(message))

    unique, records = list(dict.fromkeys(jobs)), {}
    if seconds is not None:
        random.Random(0).shuffle(unique)
        unique = unique[:most]
    deadline = time.monotonic() + (seconds or float("inf"))
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("always")  # Pillow only warns of broken EXIF data
        warnings.showwarning = collect
        results = pool.map(lambda job: job[0](job[1]), unique)
        progress = progress_bar(results, "reading files", len(unique), leave=False, unit=" files")
        try:
            for job, record in zip(unique, progress, strict=True):
                records[job] = record
                if time.monotonic() > deadline:
                    break
        finally:  # a signal, too, does not wait for files that nobody will look at
            pool.shutdown(cancel_futures=True)
    return records


def collect_warnings() -> list[str]:
    """The warnings about the file that this thread reads now, an empty list that they go to."""
    _local.messages = []
    return _local.messages


def reader(kind: type[FileInfo]) -> Callable[[Describe], Callable[[str], FileInfo]]:
    """Make a reader of files of a function that describes one; where it fails, it gives the error."""

    def decorate(describe: Describe) -> Callable[[str], FileInfo]:
        def read(path: str) -> FileInfo:
            try:
                return kind(path, **describe(path))
            except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
                said = reason(error).removeprefix(f"{path}: ")  # "it has no samples"
                return kind(path, error=said.replace(str(path), "it"))

        return read

    return decorate


@cache
def image_reader(alpha: str) -> Callable[[str], FileInfo]:
    """What reads images for training that treats transparency so, see `image_io.to_rgb`."""

    @reader(ImageInfo)
    def read(path: str) -> dict[str, Any]:
        with image_io.one_large_at_a_time(path):
            return _describe_image(path, alpha)

    return read


def _describe_image(path: str, alpha: str) -> dict[str, Any]:
    said = collect_warnings()
    _, image = _decode(path)
    exif, exif_error = image.info.get("exif"), ""
    try:
        tags = image.getexif()
        tags.tobytes()  # some readers write them again
        if exif and not tags:
            exif_error = "none of them can be read"
    except Exception as error:  # noqa: BLE001  (broken EXIF data fail in many ways)
        exif_error = str(error) or type(error).__name__
    exif_error = exif_error or next((m for m in said if "EXIF" in m), "")
    orientation = image_io.orientation(image)
    upright = image_io.turn(image, orientation)
    rgb = _eight_bits(upright, alpha)
    deep = image.mode[0] in "IF"
    grey = rgb.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return {
        "size": upright.size,
        "stored_size": image.size,
        "orientation": orientation,
        "exif_error": exif_error.strip(),
        "mode": image.mode,
        "format": image.format or "",
        "for_opencv": cv2.haveImageReader(path),
        # 8 bits would make dark images of 16 bits equal.
        "digest": digest_of(np.asarray(upright if deep else rgb)),
        "thumbnail": np.asarray(grey).ravel(),
        "constant": image_io.is_constant(rgb),
        "in_alpha": image_io.hides_in_alpha(upright, rgb),
    }


@reader(ImageInfo)
def read_size(path: str) -> dict[str, Any]:
    """Only the size of an image, which its header tells."""
    with image_io.open_image(path) as image:
        if image.format == "TIFF":  # Pillow rotates it when it is decoded
            image_io.load(image)
        sideways = image_io.orientation(image) > 4
        return {"size": image.size[::-1] if sideways else image.size}


@reader(LabelMap)
def read_label_map(path: str) -> dict[str, Any]:
    """Decode a label map and count its values."""
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
        return {"channels": channels, "colours": dict(enumerate(colours)), **common}
    whole = np.trunc(np.nan_to_num(labels)).astype(np.int64) if labels.dtype.kind == "f" else labels
    if whole.dtype == np.uint8:
        counts = np.bincount(whole.ravel(), minlength=256)
        values = {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    else:
        unique = zip(*np.unique(whole, return_counts=True), strict=True)
        values = {int(value): int(count) for value, count in unique}
    palette = (image.getpalette() or []) if image.mode == "P" else []
    known = [v for v in values if 3 * v + 3 <= len(palette)]
    return {
        "values": values,
        "fractional": whole is not labels and not np.array_equal(whole, labels),
        "colours": {v: tuple(palette[3 * v : 3 * v + 3]) for v in known},
        **common,
    }


def _decode(path: str) -> tuple[bytes, Image.Image]:
    """The bytes of a file and its first frame.

    Raises:
        OSError and others: if it cannot be read, or is truncated.
    """
    content = Path(path).read_bytes()
    if not content:
        raise ValueError("the file is empty (0 bytes)")
    image = image_io.open_image(BytesIO(content))
    if image.format == "PNG":
        image.verify()  # decoding alone ignores wrong checksums and a missing end
        image = image_io.open_image(BytesIO(content))
    image_io.load(image)
    # libjpeg fills in what is missing, for instance in a download that was padded with zeros.
    if image.format == "JPEG" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("the end of the file is missing: it is truncated or partly overwritten")
    return content, image


def _eight_bits(image: Image.Image, alpha: str) -> Image.Image:
    """RGB, without the clipping of Pillow's conversion."""
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        span = values.max() - values.min() or 1
        image = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    return image_io.to_rgb(image, alpha=alpha)


def digest_of(array: np.ndarray) -> bytes:
    """A few bytes that are equal only for equal arrays."""
    state = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).reshape(-1).data)
    return state.digest()
