"""Masks of COCO files: do they exist, are they well formed, and do they fit their boxes?

pycocotools does not check masks: it may read beyond a run-length encoding that is cut, or run forever.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmonepeace.checks.boxes import LARGE, SLACK, Boxes, outside
from mmonepeace.checks.coco import is_whole
from mmonepeace.checks.splits import Split

_FARTHEST = 1e5  # pixels; pycocotools takes memory for every pixel of an outline
_BITS, _MORE, _SIGN = 5, 32, 16  # of a character of COCO's run lengths
_LONGEST = 6  # characters of one run length: 30 bits
_BATCH = 10**6  # characters that are read at once


def check_forms(split: Split, boxes: Boxes, needed: bool) -> np.ndarray:
    """Check that the masks of a COCO file can be decoded; `needed`: if a pipeline or metric does.

    Returns:
        (N,) bool, annotations with a mask that can.
    """
    masks: list[Any] = [entry.get("segmentation") for entry in boxes.coco.annotations]
    has_mask = boxes.flags("segmentation")
    if needed:
        split.add("mask-missing", boxes.lines(~has_mask), of=len(boxes))
    problems = ["" if not mask else _malformed(mask) for mask in masks]
    differ = np.zeros(len(masks), bool)
    encoded = [i for i, m in enumerate(masks) if m and isinstance(m, dict) and not problems[i]]
    lengths = _decode([masks[i]["counts"] for i in encoded])
    for i, total in zip(encoded, lengths, strict=True):
        size, (width, height) = masks[i]["size"], boxes.sizes[i].tolist()
        if total is None:
            problems[i] = "counts are not a run-length encoding"
        elif total != size[0] * size[1]:
            problems[i] = f"run lengths of {total} pixels, expected {size[0]} x {size[1]}"
        elif tuple(size) != (height, width):
            differ[i] = True
            problems[i] = f"size {size}, image height {height:.0f}, width {width:.0f}"
    wrong = np.array([bool(problem) for problem in problems], bool)
    level = None if needed else "warning"
    for code, chosen in (("mask-malformed", wrong & ~differ), ("mask-size-differs", differ)):
        split.add(code, boxes.lines(chosen, problems.__getitem__), level=level, of=len(boxes))
    return has_mask & ~wrong


def check_fit(split: Split, boxes: Boxes, usable: np.ndarray, needed: bool) -> None:
    """Check the polygons of a COCO file against its images and boxes; `usable` as of `check_forms`."""
    far, apart = (np.zeros(len(boxes), bool) for _ in range(2))
    details, most = {}, 0.0
    for i in np.flatnonzero(usable).tolist():
        mask = boxes.coco.annotations[i]["segmentation"]
        if isinstance(mask, dict):
            continue
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in mask]).astype(float)
        low, high = points.min(0), points.max(0)
        bounds = np.concatenate([low, np.maximum(high - low, 1e-6)])[None]
        reach, fraction = outside(bounds, boxes.sizes[i : i + 1])
        far[i] = reach[0] > SLACK
        apart[i] = not far[i] and boxes.proper[i] and _overlap(bounds[0], boxes.xywh[i]) < 0.5
        most = max(most, fraction[0])
        details[i] = f"mask from {low.round(1).tolist()} to {high.round(1).tolist()}"
    level = "error" if needed and most > LARGE else None
    lines = boxes.lines(far, details.__getitem__)
    split.add("mask-outside", lines, level=level, of=len(boxes))
    split.add("mask-box-differs", boxes.lines(apart, details.__getitem__), of=len(boxes))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = np.clip(high - low, 0, None).prod()
    return float(common / max(one[2:].prod() + other[2:].prod() - common, 1e-9))


def _malformed(mask: Any) -> str:
    """What is wrong with the form of a mask, `_decode` aside; empty if nothing is."""
    if isinstance(mask, dict):
        size, counts = mask.get("size"), mask.get("counts")
        if not (isinstance(size, list) and len(size) == 2 and all(map(is_whole, size))):
            return "no size of two whole numbers"
        if not isinstance(counts, (list, str)):
            return f"counts are a {type(counts).__name__}"
        if isinstance(counts, str) and counts.startswith(("b'", 'b"')):
            return "counts are a text made of bytes, b'...'"
        return ""
    if not isinstance(mask, list):
        return f"it is a {type(mask).__name__}"
    for polygon in mask:
        if not isinstance(polygon, list):
            return "points are not in a list of lists"
        if len(polygon) % 2 or len(polygon) < 6:
            return f"a polygon of {len(polygon)} numbers, expected x and y of 3 points or more"
        # Sums find NaN. These built-ins take a tenth of the time of a call for each number.
        if not set(map(type, polygon)) <= {int, float} or not math.isfinite(sum(polygon)):
            return "a point is not a finite number"
        if max(polygon) > _FARTHEST or min(polygon) < -_FARTHEST:
            return f"a point is more than {_FARTHEST:,.0f} pixels away"
    return ""


def _decode(counts: Sequence[list[Any] | str]) -> list[int | None]:
    """Pixels of run-length encodings; None for those that are none."""
    totals: list[int | None] = [None] * len(counts)
    batch: dict[int, bytes] = {}
    size = 0
    for i, runs in enumerate(counts):
        if isinstance(runs, list):
            if all(is_whole(run) and run >= 0 for run in runs):
                totals[i] = int(sum(runs))
        elif re.fullmatch("[0-o]*[0-O]", runs):  # the last character ends a run length
            batch[i] = runs.encode()
            size += len(runs)
        if batch and (size > _BATCH or i == len(counts) - 1):
            totals_of = dict(zip(batch, _decode_texts(list(batch.values())), strict=True))
            for j, total in totals_of.items():
                totals[j] = total
            batch, size = {}, 0
    return totals


def _decode_texts(texts: Sequence[bytes]) -> list[int | None]:
    """Pixels of compressed run-length encodings.

    A run length is one or more characters, each 48 plus five bits, the lowest first, plus 32 if more
    follow; it is signed, and the difference to the last but one from the third on. All texts are read
    at once, because they may have millions of characters.
    """
    characters = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(characters < _MORE)  # of each run length
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    place = np.arange(len(characters)) - np.repeat(first, length)
    bits = (characters % _MORE) << _BITS * np.minimum(place, _LONGEST)
    values = np.add.reduceat(bits, first)
    values -= (characters[last] & _SIGN > 0) * (1 << _BITS * np.minimum(length, _LONGEST))
    # The first run length of each text, and the place of each within its text.
    begin = np.searchsorted(last, np.cumsum([0, *map(len, texts)])[:-1])
    number = np.diff([*begin, len(last)])
    index = np.arange(len(last)) - np.repeat(begin, number)
    chain = 3 * np.repeat(np.arange(len(texts)), number) + np.where(index, 1 + index % 2, 0)
    order = np.argsort(chain, kind="stable")
    chained, sums = chain[order], np.cumsum(values[order])
    starts = np.concatenate([[True], chained[1:] != chained[:-1]])
    before = (sums - values[order])[starts]
    runs = np.empty_like(values)
    runs[order] = sums - np.repeat(before, np.diff([*np.flatnonzero(starts), len(starts)]))
    valid = np.minimum.reduceat(runs, begin) >= 0
    valid &= np.maximum.reduceat(length, begin) <= _LONGEST
    totals = np.add.reduceat(runs, begin).tolist()
    return [total if good else None for total, good in zip(totals, valid, strict=True)]
