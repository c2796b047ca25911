"""Transforms for pipelines of any MM library, between its own."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv import transforms
from mmcv.transforms import BaseTransform
from mmengine import fileio

from mmonepeace.datasets import image_io
from mmonepeace.registry import TRANSFORMS

Results = dict[str, Any]
_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}


@TRANSFORMS.register_module()
class LoadImageFromFile(transforms.LoadImageFromFile):
    """mmcv's transform, which can decode large JPEG files at a half, a quarter or an eighth of their sides.

    It does so where that divides both sides, as it does for most cameras. Then an image and its label map
    get the same sizes from `Resize` and `RandomResize` with `keep_ratio` as without; pixels of the image
    change, because the decoder averages where bilinear resizing leaves pixels out.

    Args:
        largest_scale: the largest `scale` that follows, ratios included. No image is decoded smaller than it
            becomes there. None: all are decoded as mmcv does.
        kwargs: of mmcv's transform.

    Raises:
        ValueError: for `largest_scale` with another backend than OpenCV's, or with other colours.
    """

    def __init__(self, largest_scale: tuple[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if largest_scale and (self.imdecode_backend, self.color_type) != ("cv2", "color"):
            raise ValueError(
                f"largest_scale goes with imdecode_backend='cv2' and color_type='color', not with "
                f"{self.imdecode_backend!r} and {self.color_type!r}. Leave one of them out."
            )
        self.largest_scale = largest_scale

    def transform(self, results: Results) -> Results | None:
        """Add `img`, `img_shape` and `ori_shape`, the shape that the whole image has."""
        if self.largest_scale is None:
            return super().transform(results)
        content = fileio.get(results["img_path"], backend_args=self.backend_args)
        divisor = _divisor(content, tuple(self.largest_scale))
        image = mmcv.imfrombytes(content, _REDUCED.get(divisor, "color"), backend="cv2")
        if image is None:
            raise ValueError("OpenCV cannot decode it.")
        height, width = image.shape[:2]  # turned, as EXIF data say
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = height, width
        results["ori_shape"] = height * divisor, width * divisor
        return results


def _divisor(content: bytes, scale: tuple[int, ...]) -> int:
    """By how much the sides of an image in a file can be divided before it is resized to a scale."""
    with suppress(Exception):  # of a damaged file: decoding says what is wrong
        image = image_io.open_image(BytesIO(content))  # reads the header
        needed = mmcv.rescale_size(image.size, scale)
        if image.format in ("JPEG", "MPO"):
            for divisor in _REDUCED:
                if all(
                    side % divisor == 0 and side // divisor >= least
                    for side, least in zip(image.size, needed, strict=True)
                ):
                    return divisor
    return 1


@TRANSFORMS.register_module()
class Cached(BaseTransform):
    """Transforms that are not random, run once for each sample of a data set of MMEngine.

    What they add and change is kept in memory, in each worker, and copied into the sample whenever it
    is drawn again: for small data sets, whose files would be decoded hundreds of times.

    Args:
        transforms: configs, in order; of any library.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self.transforms = [TRANSFORMS.build(transform) for transform in transforms]
        self.kept: dict[int, Results] = {}

    def transform(self, results: Results) -> Results | None:
        """Add what the transforms make of the sample of that `sample_idx`; None if one leaves it out."""
        index = results["sample_idx"]
        if index not in self.kept:
            made = copy.deepcopy(results)
            for step in self.transforms:
                if (made := step(made)) is None:
                    return None
            self.kept[index] = {k: v for k, v in made.items() if v is not results.get(k)}
        return {**results, **copy.deepcopy(self.kept[index])}
