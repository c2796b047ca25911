"""Intersection over union of label maps, beside what no look at the images gives.

A class that is neither in the labels nor predicted has no IoU, NaN, and does not count, as in
mmsegmentation.

Shapes: C classes, H x W pixels.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmonepeace.atomic_file import atomic_file
from mmonepeace.console import table
from mmonepeace.datasets.label_maps import IGNORED
from mmonepeace.datasets.manifest import write_table


def confusion_matrix(
    labels_HW: np.ndarray, predicted_HW: np.ndarray, num_classes: int
) -> np.ndarray:
    """(C, C) int64, pixels by label and by prediction, without those of label `IGNORED`."""
    counted = labels_HW != IGNORED
    pairs = labels_HW[counted].astype(np.int64) * num_classes + predicted_HW[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def intersection_over_union(confusion_CC: np.ndarray) -> np.ndarray:
    """(C,) fractions, NaN for classes that do not occur."""
    right = confusion_CC.diagonal()
    union = confusion_CC.sum(0) + confusion_CC.sum(1) - right
    return np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)


class SegmentationEvaluation(NamedTuple):
    """How well label maps agree with labels; IoUs are fractions."""

    classes: tuple[str, ...]
    confusions: Mapping[str, np.ndarray]
    """name of a way to predict -> its `confusion_matrix`; the first is the one that is judged"""
    images: int

    @property
    def pixels(self) -> np.ndarray:
        """(C,) pixels of each class in the labels."""
        return next(iter(self.confusions.values())).sum(1)

    def ious(self, name: str) -> np.ndarray:
        """(C,) IoU of each class."""
        return intersection_over_union(self.confusions[name])

    def mean_iou(self, name: str) -> float:
        """Mean over the classes that are in the labels or are predicted."""
        return float(np.nanmean(self.ious(name)))

    @property
    def constant(self) -> tuple[str, float]:
        """The class that, predicted everywhere, has the highest mean IoU, and this."""
        pixels = self.pixels
        best = int(pixels.argmax())
        return self.classes[best], float(pixels[best] / pixels.sum() / np.count_nonzero(pixels))

    @property
    def chance(self) -> float:
        """Mean IoU of random labels: expected intersections divided by expected unions."""
        share = self.pixels / self.pixels.sum()
        at_random = 1 / len(share)
        return float(np.mean(share * at_random / (share + at_random - share * at_random)))

    def rows(self) -> list[tuple[Any, ...]]:
        """Of each class its name, its pixels, and its IoU by each way to predict."""
        columns = [self.ious(name).tolist() for name in self.confusions]
        return list(zip(self.classes, self.pixels.tolist(), *columns, strict=True))

    def summary(self) -> dict[str, float]:
        """Mean IoUs by name, the chance levels among them."""
        means = {name: self.mean_iou(name) for name in self.confusions}
        return means | {"constant": self.constant[1], "chance": self.chance}

    def write(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write a table of the classes, or all numbers with `facts` where a file ends with .json."""
        header = ("class", "pixels", *(f"iou_{name}" for name in self.confusions))
        if path.suffix.lower() != ".json":
            rows = [[str(x) for x in row] for row in self.rows()]
            write_table(path, header, rows)
            return
        rows = [dict(zip(header, _finite(row), strict=True)) for row in self.rows()]
        content = {**facts, "images": self.images, "miou": self.summary(), "classes": rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def report(self) -> str:
        """A text with mean IoUs, the chance levels, and the IoU of each class."""
        means = ", ".join(f"{name} {self.mean_iou(name):.2%}" for name in self.confusions)
        name, constant = self.constant
        rows = [
            (cls, f"{pixels:,}", *("-" if np.isnan(iou) else f"{iou:.2%}" for iou in ious))
            for cls, pixels, *ious in self.rows()
        ]
        header = ("class", "pixels", *self.confusions)
        return (
            f"mIoU: {means}\n"
            f"for comparison: random labels {self.chance:.2%}, {name} everywhere {constant:.2%}\n\n"
            + table(header, rows, "l".ljust(len(header), "r"))
        )


def _finite(row: tuple[Any, ...]) -> list[Any]:
    """NaN, which is no JSON, as None."""
    return [None if isinstance(x, float) and np.isnan(x) else x for x in row]
