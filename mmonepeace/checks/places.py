"""Where boxes lie: how far they leave their pictures, and how findings name them."""

from collections.abc import Sequence

import numpy as np

from mmonepeace.checks.coco import Coco

SLACK = 1.0  # pixels that a box may leave its picture by: rounding
LARGE_SHARE = 0.1  # of a box outside its picture, from which on it is an error


def outside(boxes: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far boxes leave their frames, in pixels, and with which share of their area.

    Args:
        boxes: (N, 4) x, y, width, height.
        frames: (N, 2) width, height.
    """
    corner, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    reach = np.maximum(-corner, end - frames).max(1, initial=-np.inf)
    inner = np.clip(np.minimum(end, frames) - np.maximum(corner, 0), 0, None).prod(1)
    return reach, 1 - inner / np.maximum(boxes[:, 2:].prod(1), 1e-9)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = np.clip(high - low, 0, None).prod()
    return float(common / max(one[2:].prod() + other[2:].prod() - common, 1e-9))


def lines_of(coco: Coco, which: np.ndarray, more: Sequence[str] = ()) -> list[str]:
    """The chosen annotations of a file, named for a finding.

    Args:
        coco: the file.
        which: (N,) bool, the chosen ones.
        more: what to say about each annotation, N texts or none.
    """
    lines = []
    for i in np.flatnonzero(which):
        entry = coco.annotations[i]
        name = coco.images[entry["image_id"]]["file_name"]
        extra = f", {more[i]}" if more else ""
        lines.append(f"{name}: annotation {entry['id']}: bbox {entry['bbox']}{extra}")
    return lines
