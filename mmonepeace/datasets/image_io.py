"""Images of any kind to what the model takes: RGB, resized bicubically, uint8 (3, H, W)."""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmonepeace.spec import PATCH_SIZE

ImageInput = str | Path | bytes | Image.Image | np.ndarray | Tensor


class ImageError(ValueError):
    """An image that cannot be used. The message gives the file, the problem and the fix."""


def to_rgb(image: ImageInput, at_least: int | None = None) -> Image.Image:
    """Convert any image to 8-bit RGB.

    Args:
        image: one of
            the path of a file that Pillow reads, or its bytes: the first frame, rotated as its
            EXIF data say;
            a Pillow image of any mode: transparency is dropped, 16-bit grey is scaled;
            an array (H, W) or (H, W, 1 | 3 | 4), RGB order, uint8 or floats in 0..1;
            a tensor (1 | 3, H, W) of the same values.
        at_least: JPEG files are decoded at a half, a quarter or an eighth of their sides, which is
            faster, as long as both sides have this many pixels. None: never.

    Raises:
        ImageError: if a file is missing, truncated, far too large or not an image, or if an array
            has another shape or other values.
    """
    if isinstance(image, str | Path | bytes):
        return _open(image, at_least)
    if isinstance(image, Image.Image):
        return _pillow_to_rgb(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"expected a tensor (1 | 3, H, W), got {tuple(image.shape)}.")
        image = image.detach().cpu().permute(1, 2, 0).numpy()
    return _array_to_rgb(np.asarray(image))


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


def fast_sides(size: int | tuple[int, int]) -> int:
    """`at_least` of `to_rgb` for images that are resized to `size`: twice its longer side.

    Below that, the decoder's plain averaging would visibly change the result of the bicubic filter.
    """
    return 2 * (size if isinstance(size, int) else max(size))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _open(path: str | Path | bytes, at_least: int | None) -> Image.Image:
    name = "an image in memory" if isinstance(path, bytes) else path
    if not isinstance(path, bytes) and not Path(path).is_file():
        raise ImageError(f"{path}: no such file. Check the path and the data root.")
    try:
        with Image.open(BytesIO(path) if isinstance(path, bytes) else path) as image:
            if at_least:
                image.draft(None, (at_least, at_least))
            return _pillow_to_rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {error} Scale it down beforehand.") from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise ImageError(f"{name} cannot be read as an image: {error} Leave it out.") from None


def _pillow_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow clips these to 0..255
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ImageError(
                f"its grey values are {grey.min()}..{grey.max()}, not 16-bit. Convert it to 8 bits."
            )
        return _array_to_rgb(grey / np.float32(65535))
    if image.mode == "F":
        return _array_to_rgb(np.asarray(image))
    if image.mode in ("P", "PA"):  # straight to RGB, Pillow warns about transparent colours
        image = image.convert("RGBA")
    return image.convert("RGB")


def _array_to_rgb(array: np.ndarray) -> Image.Image:
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
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"expected uint8 or floats in 0..1, got {array.dtype}.")
    rgb = array[..., :3] if array.shape[2] >= 3 else array.repeat(3, axis=2)
    return Image.fromarray(np.ascontiguousarray(rgb))
