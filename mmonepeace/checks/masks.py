"""Masks of COCO files: are they there, well formed, and those of their boxes?"""

from typing import Any

import numpy as np

from mmonepeace.checks.coco import Coco, is_number
from mmonepeace.checks.places import LARGE_SHARE, SLACK, lines_of, outside, overlap
from mmonepeace.checks.report import Report


def check_masks(
    split: str,
    coco: Coco,
    boxes: np.ndarray,
    frames: np.ndarray,
    with_mask: bool,
    report: Report,
) -> None:
    """Check the masks of a COCO file.

    Args:
        split: whose it is.
        coco: the file.
        boxes: (N, 4) x, y, width, height of its annotations.
        frames: (N, 2) width, height of their pictures.
        with_mask: whether training needs masks.
        report: gets the findings.
    """
    masks = [entry.get("segmentation") for entry in coco.annotations]
    level = "error" if with_mask else None
    absent = np.array([not mask for mask in masks], bool)
    if with_mask and absent.any():
        what = "LoadAnnotations(with_mask=True) needs masks, and annotations have none"
        report.add("mask-missing", split, what, lines_of(coco, absent), of=len(masks))
    problems = ["" if not mask else _malformed(mask) for mask in masks]
    broken = np.array([bool(problem) for problem in problems], bool)
    if broken.any():
        what = "masks are neither polygons nor run lengths as COCO writes them"
        lines = lines_of(coco, broken, problems)
        report.add("mask-malformed", split, what, lines, level=level, of=len(masks))
    differ, far, apart = (np.zeros(len(masks), bool) for _ in range(3))
    shown, most = [""] * len(masks), 0.0
    for i in np.flatnonzero(~absent & ~broken):
        mask, (width, height) = masks[i], frames[i]
        if isinstance(mask, dict):
            counts = mask["counts"]
            area = sum(counts) if isinstance(counts, list) else width * height
            differ[i] = tuple(mask["size"]) != (height, width) or area != width * height
            shown[i] = f"size {mask['size']}, picture height {height:.0f}, width {width:.0f}"
            continue
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask]).astype(float)
        low, high = points.min(0), points.max(0)
        bounds = np.concatenate([low, np.maximum(high - low, 1e-6)])[None]
        reach, share = outside(bounds, frames[i : i + 1])
        far[i] = reach[0] > SLACK
        apart[i] = not far[i] and boxes[i, 2:].min() > 0 and overlap(bounds[0], boxes[i]) < 0.5
        most = max(most, share[0])
        shown[i] = f"mask from {low.round(1).tolist()} to {high.round(1).tolist()}"
    if differ.any():
        what = "run-length masks have another size than their picture"
        lines = lines_of(coco, differ, shown)
        report.add("mask-size-differs", split, what, lines, level=level, of=len(masks))
    if far.any():
        lines = lines_of(coco, far, shown)
        level = level if most > LARGE_SHARE else None
        report.add(
            "mask-outside",
            split,
            "polygons leave their pictures",
            lines,
            level=level,
            of=len(masks),
        )
    if apart.any():
        what = "polygons overlap with their box by less than half"
        report.add("mask-box-differs", split, what, lines_of(coco, apart, shown), of=len(masks))


def _malformed(mask: Any) -> str:
    """What is wrong with the form of a mask; nothing if it is right."""
    if isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        if not (isinstance(size, list) and len(size) == 2) or not isinstance(counts, (list, str)):
            return "no size or no counts"
        if isinstance(counts, list) and not all(isinstance(n, int) and n >= 0 for n in counts):
            return "counts are no whole numbers"
        return ""
    if not isinstance(mask, list):
        return f"it is a {type(mask).__name__}"
    for polygon in mask:
        if not isinstance(polygon, list):
            return "points are not in a list of lists"
        if len(polygon) % 2 or len(polygon) < 6:
            return f"a polygon of {len(polygon)} numbers, expected x and y of 3 points or more"
        if not all(map(is_number, polygon)):
            return "a point is no finite number"
    return ""
