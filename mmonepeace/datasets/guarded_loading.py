"""Transforms that load files, of any library: whatever is wrong with a file is said with its name."""

import os
from typing import Any

import numpy as np
from PIL import Image

from mmonepeace.datasets.sample_errors import (
    ImageError,
    LabelError,
    SampleError,
    check_exists,
    decoding,
)

_DEEP = "IF"  # first letters of Pillow's modes of more than 8 bits
_LARGEST = 255
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # what these files begin with


class GuardedLoading:
    """A transform that loads an image or its labels, such as `LoadAnnotations` of mmseg or mmdet.

    What it raises becomes a `SampleError` that names the file. A label map has to be one of integers
    of 8 bits, of the size of its image: mmseg truncates others without a word, and drops the axis of
    a map of one row or column, which is put back.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self._error: type[SampleError] = ImageError
        self._path_keys: tuple[str, ...] = ("img_path",)
        if "Annotations" in type(transform).__name__:
            self._error, self._path_keys = LabelError, ("seg_map_path", "img_path")

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load into the results of the transforms before.

        Raises:
            SampleError: if a file is missing, cannot be decoded, or is no label map of its image.
        """
        path = next((results[key] for key in self._path_keys if results.get(key)), "a sample")
        had_labels = "gt_seg_map" in results
        if isinstance(path, str) and "://" not in path and path != "a sample":
            _check_file(path, self._error)
        with decoding(self._error, path, "Get it again, or leave it out."):
            loaded = self.transform(results)
        if loaded is not None and "gt_seg_map" in loaded and not had_labels:
            _check_label_map(loaded, path)
        return loaded

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "transform":
            raise AttributeError(name)
        return getattr(self.transform, name)

    def __repr__(self) -> str:
        return repr(self.transform)


def guard_loading(step: Any) -> Any:
    """Guard the transforms that load in a pipeline, or in a transform of transforms."""
    if type(step).__name__.startswith("Load"):
        return GuardedLoading(step)
    own = getattr(step, "__dict__", {})
    for name in ("transforms", "subroutines"):
        inner = own.get(name)
        if isinstance(inner, list):
            inner[:] = map(guard_loading, inner)
        elif inner is not None:
            own[name] = guard_loading(inner)
    return step


def _check_file(path: str, error: type[SampleError]) -> None:
    check_exists(path)
    with open(path, "rb") as file:
        head = file.read(4)
    if not head:
        raise error(f"{path} is empty (0 bytes). Get it again, or leave it out.")
    if head in _POSTSCRIPT:  # Pillow, of mmcv's backend of that name, would run Ghostscript
        raise error(f"{path} is PostScript, a program, and not read. Save it as PNG.")


def _check_label_map(results: dict[str, Any], path: str) -> None:
    labels, size = results["gt_seg_map"], results.get("ori_shape")
    if size is None:
        return
    height, width = size[:2]
    if labels.ndim < 2 and labels.size == height * width:  # one row or column
        labels = results["gt_seg_map"] = labels.reshape(height, width)
    if labels.ndim != 2:
        raise LabelError(
            f"{path} has {labels.shape[-1]} channels, expected one with the index of a class in each "
            "pixel."
        )
    if labels.shape != (height, width):
        raise LabelError(
            f"{path} is {labels.shape[1]} x {labels.shape[0]} pixels, its image {width} x {height}."
        )
    if os.path.isfile(path):
        _check_depth(path)


def _check_depth(path: str) -> None:
    """Check the values in a file of more than 8 bits, because mmseg keeps the lowest 8."""
    with Image.open(path) as image:  # reads the header
        if image.mode[0] not in _DEEP:
            return
        values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= _LARGEST and np.array_equal(values, np.trunc(values))):
        raise LabelError(
            f"{path} has values of more than 8 bits, {low:g} to {high:g}, and would be truncated. "
            "Save class indices with 8 bits: Image.fromarray(labels.astype('uint8'))."
        )
