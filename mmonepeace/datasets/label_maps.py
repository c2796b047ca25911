"""Label maps of images: the file of each image in a folder of their own, and its checked values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmonepeace.datasets import image_io
from mmonepeace.datasets.sample_errors import LabelError, MissingError, decoding

IGNORED = 255  # of pixels that belong to no class


def find_label_maps(images: Sequence[Path], folder: Path, root: Path) -> list[Path]:
    """The PNG file of each image: `images/a/b.jpg` of `root` has `labels/a/b.png` of `folder`.

    Raises:
        MissingError: for the first image that has none.
    """
    paths = [folder / image.relative_to(root).with_suffix(".png") for image in images]
    missing = [i for i, path in enumerate(paths) if not path.is_file()]
    if missing:
        first = missing[0]
        raise MissingError(
            f"{len(missing):,} of {len(paths):,} images have no label map, the first {images[first]}: "
            f"expected {paths[first]}. Give the folder of PNG files that are named as their images."
        )
    return paths


def read_label_map(
    path: Path, size: tuple[int, int], num_classes: int, reduce_zero_label: bool = False
) -> np.ndarray:
    """(H, W) uint8, the class of each pixel or `IGNORED`.

    Args:
        path: a file of 8 bits in one channel; a palette only says how it looks.
        size: (H, W) of the image.
        num_classes: labels are below it.
        reduce_zero_label: 0 is ignored, and 1 the first class.

    Raises:
        LabelError: if it cannot be decoded, has another size or format, or a label of no class.
    """
    fix = "Get it again, or leave its image out."
    with decoding(LabelError, path, fix), image_io.open_image(path) as image:
        image_io.load(image)
        labels_HW = np.array(image)
    if labels_HW.ndim != 2 or labels_HW.dtype not in (np.uint8, np.bool_):
        raise LabelError(
            f"{path} is of mode {image.mode}; expected one channel of 8 bits with the index of a "
            "class in each pixel."
        )
    if labels_HW.shape != tuple(size):
        height, width = labels_HW.shape
        raise LabelError(f"{path} is {width} x {height} pixels, its image {size[1]} x {size[0]}.")
    labels_HW = labels_HW.astype(np.uint8)
    if reduce_zero_label:
        labels_HW = np.where(labels_HW % IGNORED, labels_HW - 1, IGNORED).astype(np.uint8)
    highest = int(labels_HW[labels_HW != IGNORED].max(initial=0))
    if highest >= num_classes:
        raise LabelError(
            f"{path} has label {highest + reduce_zero_label}, but {num_classes} classes are named: "
            f"labels {int(reduce_zero_label)} to {num_classes - 1 + reduce_zero_label}"
            f"{', 0 is ignored' if reduce_zero_label else ''}. Name as many classes as there are."
        )
    return labels_HW
