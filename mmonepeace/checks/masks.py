"""Masks of COCO files: do they exist, are they well formed, and do they fit their boxes?"""

from typing import Any

import numpy as np

from mmonepeace.checks.boxes import LARGE, SLACK, Boxes, outside
from mmonepeace.checks.coco import is_number
from mmonepeace.checks.splits import Split


def check_masks(split: Split, boxes: Boxes, with_mask: bool) -> None:
    """Check the masks of a COCO file against its images and boxes; `with_mask`: if they are loaded."""
    masks: list[Any] = [entry.get("segmentation") for entry in boxes.coco.annotations]
    problems = ["" if not mask else _malformed(mask) for mask in masks]
    details = dict(enumerate(problems))
    broken = np.array([bool(problem) for problem in problems], bool)
    differ, far, apart = (np.zeros(len(masks), bool) for _ in range(3))
    most = 0.0
    for i in np.flatnonzero(boxes.flags("segmentation") & ~broken).tolist():
        mask, (width, height) = masks[i], boxes.sizes[i]
        if isinstance(mask, dict):
            counts = mask["counts"]
            area = sum(counts) if isinstance(counts, list) else width * height
            differ[i] = tuple(mask["size"]) != (height, width) or area != width * height
            details[i] = f"size {mask['size']}, image height {height:.0f}, width {width:.0f}"
            continue
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask]).astype(float)
        low, high = points.min(0), points.max(0)
        bounds = np.concatenate([low, np.maximum(high - low, 1e-6)])[None]
        reach, fraction = outside(bounds, boxes.sizes[i : i + 1])
        far[i] = reach[0] > SLACK
        apart[i] = not far[i] and boxes.proper[i] and _overlap(bounds[0], boxes.xywh[i]) < 0.5
        most = max(most, fraction[0])
        details[i] = f"mask from {low.round(1).tolist()} to {high.round(1).tolist()}"

    def add(code: str, chosen: np.ndarray, is_error: bool = False) -> None:
        lines, level = boxes.lines(chosen, details.__getitem__), "error" if is_error else None
        split.add(code, lines, level=level, of=len(boxes))

    add("mask-malformed", broken, with_mask)
    add("mask-size-differs", differ, with_mask)
    add("mask-outside", far, with_mask and most > LARGE)
    add("mask-box-differs", apart)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = np.clip(high - low, 0, None).prod()
    return float(common / max(one[2:].prod() + other[2:].prod() - common, 1e-9))


def _malformed(mask: Any) -> str:
    """What is wrong with the form of a mask; empty if it is right."""
    if isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        if not (isinstance(size, list) and len(size) == 2) or not isinstance(counts, (list, str)):
            return "no size or no counts"
        if isinstance(counts, list) and not all(isinstance(n, int) and n >= 0 for n in counts):
            return "counts are not whole numbers"
        return ""
    if not isinstance(mask, list):
        return f"it is a {type(mask).__name__}"
    for polygon in mask:
        if not isinstance(polygon, list):
            return "points are not in a list of lists"
        if len(polygon) % 2 or len(polygon) < 6:
            return f"a polygon of {len(polygon)} numbers, expected x and y of 3 points or more"
        if not all(map(is_number, polygon)):
            return "a point is not a finite number"
    return ""
