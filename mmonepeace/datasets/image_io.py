"""Images of any kind to what the model takes: RGB, resized bicubically, uint8 (3, H, W)."""

import math
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError
from torch import Tensor

from mmonepeace.datasets.sample_errors import ImageError, check_exists, decoding, warn_once
from mmonepeace.spec import PATCH_SIZE

ImageInput = str | Path | bytes | Image.Image | np.ndarray | Tensor

# That of Pillow's error, a square of 13,377 pixels: 0.7 GB decoded, 1.6 GB with a palette. Below it,
# Pillow warns from half of it on; aerial images are no attack.
MAX_PIXELS = 178_956_970
LARGE = 2**25  # pixels: 128 MB decoded
# Of pixels. Pillow also knows formats that are programs, and would run Ghostscript for EPS.
FORMATS = (
    "JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "MPO", "JPEG2000", "PPM", "PCX",
    "TGA", "SGI", "SUN", "DDS", "ICO", "ICNS", "PSD", "QOI", "XBM", "XPM", "MSP", "IM", "SPIDER",
)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_pillow_lock, _large_lock = threading.Lock(), threading.Lock()


def to_rgb(image: ImageInput, at_least: int | None = None, alpha: str = "drop") -> Image.Image:
    """Convert any image to 8-bit RGB.

    Args:
        image: one of
            the path of a file that Pillow reads, or its bytes: the first frame, rotated as its
            EXIF data say, as far as these can be read;
            a Pillow image of any mode: 16-bit grey is scaled;
            an array (H, W) or (H, W, 1 | 3 | 4), RGB order, uint8 or floats in 0..1;
            a tensor (1 | 3, H, W) of the same values.
        at_least: JPEG files are decoded at a half, a quarter or an eighth of their sides, which is
            faster, as long as both sides have this many pixels. None: never.
        alpha: what becomes of transparency. "drop", as in the official code, shows the colours that
            transparent pixels have, often black; a colour (see `check_alpha`) is put behind them.

    Raises:
        ImageError: if a file is missing, truncated, no image or has more than `MAX_PIXELS`, or if
            an array has another shape or other values.
    """
    if isinstance(image, str | Path | bytes):
        return _read(image, at_least, alpha)
    if isinstance(image, Image.Image):
        with decoding(ImageError, "an image", "Leave it out."):  # it may not be loaded yet
            return _pillow_to_rgb(image, alpha)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"expected a tensor (1 | 3, H, W), got {tuple(image.shape)}.")
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    return _array_to_rgb(np.asarray(image), alpha)


def check_alpha(alpha: str) -> str:
    """`alpha` of `to_rgb`: "drop", or a colour, such as "white" or "#808080"; else a ValueError."""
    if alpha != "drop":
        try:
            ImageColor.getrgb(alpha)
        except (ValueError, AttributeError, TypeError):
            expected = "expected 'drop', or a colour such as 'white' or '#808080'"
            raise ValueError(f"alpha is {alpha!r}, {expected}.") from None
    return alpha


def open_image(source: str | Path | BytesIO) -> Image.Image:
    """Open a file with Pillow, not decoded yet, if its format is one of `FORMATS`.

    Raises:
        ImageError: if it has more than `MAX_PIXELS`, or another format.
        Exception: whatever Pillow raises for damaged files.
    """
    try:
        with _without_pillows_limit():
            image = Image.open(source, formats=_formats())
    except Exception as error:
        # Pillow refuses AVIF files for EXIF data that it cannot write again.
        content = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
        if content[4:8] != b"ftyp" or b"Exif" not in content[:4096]:
            if isinstance(error, UnidentifiedImageError):
                raise ImageError("it is not an image of a known format. Leave it out.") from None
            raise
        without = content[:4096].replace(b"Exif", b"free") + content[4096:]
        with _without_pillows_limit():
            image = Image.open(BytesIO(without), formats=_formats())
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"it has {image.width:,} x {image.height:,} pixels, more than {MAX_PIXELS:,}: too much "
            "memory. Cut it into tiles or scale it down."
        )
    return image


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Lift the limit of Pillow, which is one of the whole process."""
    with _pillow_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def load(image: Image.Image) -> None:
    """Decode an open image; Pillow rotates some formats here."""
    limit = Image.MAX_IMAGE_PIXELS
    large = limit is not None and image.width * image.height > limit
    with _without_pillows_limit() if large else nullcontext():
        image.load()


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def orientation(image: Image.Image) -> int:
    """EXIF's number of a decoded image, 1 for upright, wherever it can be found in damaged data."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001  (damaged EXIF data fail in many ways)
        found = None
    if found is None:
        found = _orientation_in(image.info.get("exif") or b"")
    try:
        number = int(found or 1)  # some write the number as text
    except (ValueError, TypeError):
        return 1
    return number if number in _TURNS else 1


def turn(image: Image.Image, number: int) -> Image.Image:
    """An image as EXIF's number says; its other EXIF data, which may be damaged, are not touched."""
    return image.transpose(_TURNS[number]) if number in _TURNS else image


def _orientation_in(exif: bytes) -> int | None:
    """The orientation in EXIF data whose end is missing."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        (start,) = struct.unpack_from(f"{order or '<'}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order or '<'}H", tiff, start)
        for i in range(count if order else 0):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * i)
            if tag == ExifTags.Base.Orientation:
                return int(value)
    except struct.error:
        pass
    return None


def is_constant(image: Image.Image) -> bool:
    """Whether an 8-bit image has a single colour."""
    return len(image.getcolors(1) or ()) == 1


def hides_in_alpha(image: Image.Image, rgb: Image.Image) -> bool:
    """Whether all that an image shows is in its transparency, so that `rgb` has a single colour."""
    if not _has_alpha(image) or not is_constant(rgb):
        return False
    with_alpha = image if "A" in image.getbands() else image.convert("RGBA")
    return not is_constant(with_alpha.getchannel("A"))


def resize(
    image: Image.Image,
    size: int | tuple[int, int],
    keep_ratio: bool = False,
    multiple: int = PATCH_SIZE,
) -> Image.Image:
    """Antialiased bicubic resizing of an RGB image to `size`, a side or (height, width).

    It distorts, as the official code does. With `keep_ratio`, it keeps the ratio as well as sides
    that are multiples of `multiple` allow, with at most about the area of `size`.

    Raises:
        ValueError: for a size below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width, multiple) < 1:
        raise ValueError(f"size {size} and multiple {multiple} must be at least 1.")
    if keep_ratio:
        area, ratio = height * width, image.height / image.width

        def side(length: float) -> int:
            # No longer than what remains when the other side is a single patch.
            return multiple * max(1, round(min(length, area / multiple) / multiple))

        height, width = side(math.sqrt(area * ratio)), side(math.sqrt(area / ratio))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def one_large_at_a_time(image: ImageInput) -> AbstractContextManager[Any]:
    """A lock for images of more than `LARGE` pixels: threads would decode several at once."""
    try:
        if isinstance(image, str | Path | bytes):
            with open_image(BytesIO(image) if isinstance(image, bytes) else image) as opened:
                image = opened
        large = isinstance(image, Image.Image) and image.width * image.height > LARGE
    except Exception:  # noqa: BLE001  (whoever reads it will say what is wrong)
        large = False
    return _large_lock if large else nullcontext()


def crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The part in a box (left, top, right, bottom); Pillow would warn where it is large."""
    with _without_pillows_limit():
        return image.crop(box)


def fast_sides(size: int | tuple[int, int]) -> int:
    """`at_least` of `to_rgb` for images that are resized to `size`: twice its longer side.

    Below that, the decoder's plain averaging would visibly change the result of the bicubic filter.
    """
    return 2 * (size if isinstance(size, int) else max(size))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _read(path: str | Path | bytes, at_least: int | None, alpha: str) -> Image.Image:
    source: str | Path | BytesIO
    if isinstance(path, bytes):
        name, source = "an image in memory", BytesIO(path)
    else:
        check_exists(path, ImageError)
        name, source = str(path), path
    with decoding(ImageError, name, "Leave it out."), open_image(source) as image:
        if at_least:
            image.draft(None, (at_least, at_least))
        load(image)
        return _pillow_to_rgb(turn(image, orientation(image)), alpha, name)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _pillow_to_rgb(
    image: Image.Image, alpha: str = "drop", name: object = "an image"
) -> Image.Image:
    """`to_rgb` of a Pillow image; `name` is for the warning that all that it shows is dropped."""
    if image.mode.startswith("I"):  # Pillow clips these to 0..255
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(
                f"its grey values are {grey.min()}..{grey.max()}, not 16-bit. Convert it to 8 bits."
            )
        eight_bits = np.rint(np.arange(65536, dtype=np.float32) / np.float32(65535) * 255).astype(
            np.uint8
        )
        return Image.fromarray(eight_bits[grey]).convert("RGB")
    if image.mode == "F":
        return _array_to_rgb(np.asarray(image), alpha)
    if image.mode == "La":
        image = image.convert("LA")
    if alpha != "drop" and _has_alpha(image):
        behind = Image.new("RGBA", image.size, ImageColor.getrgb(alpha))
        return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")
    # Straight to RGB, Pillow warns about transparent colours of a palette.
    if image.mode == "RGB":
        return image  # a copy would take as much memory again
    rgb = (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")
    if hides_in_alpha(image, rgb):
        warn_once(
            "alpha",
            f"{name} is drawn in its transparency alone, which is dropped: the model gets a single "
            "colour, for this and maybe for other images. alpha='white' (--alpha white) puts white "
            "behind them.",
        )
    return rgb


def _array_to_rgb(array: np.ndarray, alpha: str) -> Image.Image:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"expected an array (H, W) or (H, W, 1 | 3 | 4), got {array.shape}.")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # so that NaN fails
            raise ImageError(
                f"float images have values in 0..1, this one in {array.min():.4g}.."
                f"{array.max():.4g}. Divide by its white level, or convert to uint8."
            )
        rows = max(1, 2**20 * len(array) // array.size)  # at once: a third of the memory
        parts = (array[i : i + rows] for i in range(0, len(array), rows))
        array = np.concatenate([np.rint(part * 255).astype(np.uint8) for part in parts])
    if array.dtype != np.uint8:
        raise ImageError(f"expected uint8 or floats in 0..1, got {array.dtype}.")
    pixels = array if array.shape[2] >= 3 else array[..., 0]
    return _pillow_to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), alpha)
