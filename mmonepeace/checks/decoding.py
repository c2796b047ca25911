"""Files of pictures and label maps, each decoded once, to what the checks need to know of them."""

import hashlib
import os
import threading
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

LOOK = 16  # side of the thumbnails that pictures are compared by
_TURNS = range(2, 9)  # EXIF's orientations that change a picture
_MAX_COLOURS = 64  # of a label map in colours that are kept
_heard = threading.local()  # warnings of the file that a thread is reading


@dataclass(frozen=True, eq=False)
class Picture:
    """What is known of a picture.

    Attributes:
        path: its file.
        error: why it cannot be read; the rest is not set then.
        size: (width, height) as training sees it, turned as its EXIF data say.
        stored_size: (width, height) as it lies in the file.
        orientation: EXIF's number, 1 for upright.
        exif_error: what is wrong with its EXIF data.
        mode: Pillow's name of its channels.
        format: Pillow's name of its format.
        for_opencv: whether OpenCV, which training decodes with, knows such files.
        digest: equal for pictures with equal pixels, whatever their format.
        look: (LOOK * LOOK,) uint8, a grey thumbnail.
        constant: whether it is of one colour.
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
    look: np.ndarray = field(default_factory=lambda: np.zeros(LOOK * LOOK, np.uint8))
    constant: bool = False


@dataclass(frozen=True, eq=False)
class LabelMap:
    """What is known of a label map.

    Attributes:
        path: its file.
        error: why it cannot be read; the rest is not set then.
        size: (width, height) as it lies in the file; nothing turns label maps.
        mode: Pillow's name of its channels.
        lossy: its format, where that changes values.
        channels: 1 is what is expected.
        fractional: whether it has numbers that are not whole.
        values: number -> pixels; empty where there are several channels.
        colours: number -> colour of its palette, of the numbers that occur. Where there are several
            channels, the colours that occur.
        digest: equal for label maps with equal numbers.
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
class Sound:
    """What is known of a sound; `digest` is equal for equal samples."""

    path: str
    error: str = ""
    digest: bytes = b""


Job = tuple[Callable[[str], Any], str]  # a reader, and the path of a file


def scan(jobs: Sequence[Job]) -> dict[Job, Any]:
    """Read files side by side, each once; what their readers make of them."""
    from tqdm import tqdm

    def heed(message: Warning | str, *_: Any, **__: Any) -> None:
        getattr(_heard, "messages", []).append(str(message))

    unique = list(dict.fromkeys(jobs))
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # Pillow only warns of broken EXIF data
        warnings.showwarning = heed
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda job: job[0](job[1]), unique)
            records = list(tqdm(found, "reading files", len(unique), leave=False, unit="file"))
    return dict(zip(unique, records, strict=True))


def read_picture(path: str) -> Picture:
    """Decode a picture and describe it."""
    try:
        return _describe_picture(path)
    except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
        return Picture(path, error=reason_of(path, error))


def _describe_picture(path: str) -> Picture:
    _heard.messages = []
    _, image = _decode(path)
    exif, orientation, exif_error, upright = image.info.get("exif"), 1, "", image
    try:
        tags = image.getexif()
        orientation = tags.get(ExifTags.Base.Orientation, 1)
        upright = ImageOps.exif_transpose(image)
        if exif and not tags:
            exif_error = "nothing in them can be read"
    except Exception as error:  # noqa: BLE001  (broken EXIF data fail in many ways)
        exif_error = str(error) or type(error).__name__
    exif_error = exif_error or next((m for m in _heard.messages if "EXIF" in m), "")
    pixels = np.asarray(_eight_bits(upright))
    deep = image.mode[0] in "IF"
    grey = Image.fromarray(pixels).convert("L").resize((LOOK, LOOK), Image.Resampling.BOX)
    return Picture(
        path,
        size=upright.size,
        stored_size=image.size,
        orientation=orientation if orientation in _TURNS else 1,
        exif_error=exif_error.strip(),
        mode=image.mode,
        format=image.format or "",
        for_opencv=cv2.haveImageReader(path),
        # Eight bits would make dark pictures of 16 bits equal.
        digest=digest_of(np.asarray(upright) if deep else pixels),
        look=np.asarray(grey).ravel(),
        constant=bool((pixels == pixels[:1, :1]).all()),
    )


def read_label_map(path: str) -> LabelMap:
    """Decode a label map and count its numbers."""
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
        channels = labels.shape[2]
        packed = labels.astype(np.int64) @ 256 ** np.arange(
            channels
        )  # sorts in a tenth of the time
        colours = [
            tuple(int(colour >> 8 * i & 255) for i in range(channels))
            for colour in np.unique(packed)[:_MAX_COLOURS]
        ]
        return LabelMap(path, channels=channels, colours=dict(enumerate(colours)), **common)
    whole = np.trunc(np.nan_to_num(labels)).astype(np.int64) if labels.dtype.kind == "f" else labels
    if whole.dtype == np.uint8:
        counts = np.bincount(whole.ravel(), minlength=256)
        numbers = np.flatnonzero(counts)
        counts = counts[numbers]
    else:
        numbers, counts = np.unique(whole, return_counts=True)
    values = dict(zip(map(int, numbers), map(int, counts), strict=True))
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
        OSError and others: if it cannot be read, or is cut.
    """
    content = Path(path).read_bytes()
    if not content:
        raise ValueError("the file is empty (0 bytes)")
    image = Image.open(BytesIO(content))
    if image.format == "PNG":
        image.verify()  # decoding alone passes over wrong checksums and a missing end
        image = Image.open(BytesIO(content))
    image.load()
    # libjpeg fills up what is missing, for instance in a download that was filled with zeros.
    if image.format == "JPEG" and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ValueError("the file has no end: it is cut or partly overwritten")
    return content, image


def reason_of(path: str, error: Exception) -> str:
    """What is wrong with a file, in the words of its decoder."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a format that Pillow knows"
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
    """A few bytes that are equal for equal arrays only."""
    state = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).tobytes())
    return state.digest()
