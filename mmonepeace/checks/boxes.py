"""Boxes of COCO files: are they inside their images, and in COCO's layout?"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mmonepeace.checks.coco import Coco, Files, rounded_box
from mmonepeace.checks.decoding import ImageInfo
from mmonepeace.checks.report import Bin, Section
from mmonepeace.checks.splits import Split

SLACK = 1.0  # pixels that a box may leave its image by: rounding
LARGE = 0.1  # fraction of a box outside its image from which on it is an error
_FEW, _OUTSIDE = 3, 0.2  # boxes, and fraction of them outside, from which on a layout is doubted

# What else four numbers may mean: code -> boxes (N, 4) in COCO's layout.
_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "box-xyxy": lambda b: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1),
    "box-centre": lambda b: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], 1),
    "box-swapped": lambda b: b[:, [1, 0, 3, 2]],
}


class Boxes:
    """The annotations of a COCO file as arrays.

    Args:
        coco: the file.
        sizes: image id -> (width, height).

    Attributes:
        xywh: (N, 4) x, y, width, height in pixels.
        sizes: (N, 2) width, height of their images.
        areas: (N,) as stated.
    """

    def __init__(self, coco: Coco, sizes: Mapping[Any, tuple[int, int]]) -> None:
        self.coco = coco
        annotations = coco.annotations
        self.xywh = np.array([a["bbox"] for a in annotations], float).reshape(-1, 4)
        self.sizes = np.array([sizes[a["image_id"]] for a in annotations], float).reshape(-1, 2)
        self.areas = np.array([a["area"] for a in annotations], float)

    def __len__(self) -> int:
        return len(self.xywh)

    @cached_property
    def proper(self) -> np.ndarray:
        """(N,) bool, those whose width and height are positive."""
        return np.all(self.xywh[:, 2:] > 0, axis=1)

    @cached_property
    def outside(self) -> tuple[np.ndarray, np.ndarray]:
        """See `outside`."""
        return outside(self.xywh, self.sizes)

    def flags(self, key: str) -> np.ndarray:
        """(N,) bool, those with a value under a key that counts as true."""
        return np.array([bool(a.get(key)) for a in self.coco.annotations], bool)

    def lines(self, chosen: np.ndarray, detail: Callable[[int], str] | None = None) -> list[str]:
        """The chosen annotations, named for a finding.

        Args:
            chosen: (N,) bool.
            detail: what to say of an annotation besides.
        """
        lines = []
        for i in np.flatnonzero(chosen).tolist():
            entry = self.coco.annotations[i]
            extra = f", {detail(i)}" if detail else ""
            place = f"{self.coco.path}: annotation {entry['id']} of {self.coco.file_name(entry)}"
            lines.append(f"{place}: bbox {entry['bbox']}{extra}")
        return lines


def outside(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far boxes leave their images, in pixels (N,), and by what fraction of their area (N,).

    Args:
        boxes: (N, 4) x, y, width, height.
        sizes: (N, 2) width, height.
    """
    corner, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    reach = np.maximum(-corner, end - sizes).max(1, initial=-np.inf)
    inner = np.clip(np.minimum(end, sizes) - np.maximum(corner, 0), 0, None).prod(1)
    return reach, 1 - inner / np.maximum(boxes[:, 2:].prod(1), 1e-9)


def image_sizes(
    split: Split, files: Files, images: Sequence[ImageInfo]
) -> dict[Coco, dict[Any, tuple[int, int]]]:
    """(width, height) of the images of each file: as decoded, where they were read, else as stated.

    Reports images whose size is not as stated.
    """
    by_path = {image.path: image for image in images}
    sizes = {
        coco: {number: (e["width"], e["height"]) for number, e in coco.images.items()}
        for coco in files.values()
    }
    differ = []
    for sample in split.samples:
        image = by_path.get(sample.path)
        if image:
            stated = sizes[files[sample.dataset]]
            if stated[sample.label] != image.size:
                rotated = stated[sample.label] == image.stored_size
                why = ", rotated by its EXIF data" if rotated else ""
                differ.append(f"{image.path}: {image.size}{why}, but stated {stated[sample.label]}")
            stated[sample.label] = image.size
    split.add("image-size-differs", differ, of=len(by_path))
    return sizes


def check_boxes(split: Split, boxes: Boxes) -> bool:
    """Check the boxes of a COCO file.

    Returns:
        whether they are in COCO's layout, so that more can be said of them.
    """

    def add(code: str, chosen: np.ndarray, detail: Any = None, **options: Any) -> None:
        split.add(code, boxes.lines(chosen, detail), of=len(boxes), **options)

    annotations, proper = boxes.coco.annotations, boxes.proper
    for key, code in (("iscrowd", "iscrowd"), ("ignore", "annotation-ignored")):
        values = [a.get(key, 0) for a in annotations]
        wrong = np.array([value not in (0, 1) for value in values], bool)
        add("iscrowd-values", wrong, lambda i: f"{key} {values[i]!r}")  # noqa: B023  (called at once)
        flags = boxes.flags(key) & ~wrong
        add(code, flags, level="error" if flags.all() else None)
    if split.name != "train":
        add("iscrowd-missing", np.array(["iscrowd" not in a for a in annotations], bool))
    negative = np.any(boxes.xywh[:, 2:] < 0, axis=1)
    add("box-negative", negative)
    add("box-no-area", ~proper & ~negative)
    if _has_other_layout(split, boxes):
        return False

    def image(i: int) -> str:
        return "image {:.0f} x {:.0f}".format(*boxes.sizes[i])

    reach, fraction = boxes.outside
    gone = proper & (fraction >= 1)
    partly = proper & ~gone & (reach > SLACK)
    most = fraction[partly].max(initial=0)
    level = "error" if most > LARGE else None
    add("box-outside", gone, image)
    farthest = reach[partly].max(initial=0)
    add("box-leaves-image", partly, image, level=level, reach=farthest, most=most)
    add("box-tiny", proper & (boxes.xywh[:, 2:] < 1).any(1))
    areas, products = boxes.areas, boxes.xywh[:, 2:].prod(1)

    def both(i: int) -> str:
        return f"area {areas[i]:g}, box {products[i]:g}"

    none = proper & (areas <= 0)
    add("area-not-positive", none, both)
    # Masks fill only a part of their box, and rounding adds a little.
    least = np.where(boxes.flags("segmentation"), 0.01, 0.5)
    far = (areas > 1.2 * products) | (areas < least * products)
    far &= np.abs(areas - products) > 16  # pixels: small boxes are rounded coarsely
    add("area-differs", proper & ~none & far, both)
    return True


def _has_other_layout(split: Split, boxes: Boxes) -> bool:
    """Whether the numbers of all boxes mean something other than COCO's."""
    xywh, sizes = boxes.xywh[boxes.proper], boxes.sizes[boxes.proper]
    if not len(xywh):
        return False
    if xywh.max() <= 1.01 and (xywh[:, 2:] < 1).any() and sizes.min() > 4:
        split.add("box-normalised", [boxes.coco.path])
        return True
    leave = float((outside(xywh, sizes)[0] > SLACK).mean())
    if len(xywh) < _FEW or leave < _OUTSIDE:
        return False
    for code, to_coco in _LAYOUTS.items():
        other = to_coco(xywh)
        if (other[:, 2:] > 0).all() and (outside(other, sizes)[0] <= SLACK).all():
            split.add(code, [boxes.coco.path], share=leave)
            return True
    return False


def check_repeats(split: Split, coco: Coco) -> None:
    """Find boxes that occur more than once, with the same class or with several."""
    groups: dict[tuple[Any, ...], Counter[Any]] = defaultdict(Counter)
    for entry in coco.annotations:
        groups[entry["image_id"], rounded_box(entry)][entry["category_id"]] += 1
    same, contrary = [], []
    for (image, box), categories in groups.items():
        names = ", ".join(coco.names[category] for category in categories.elements())
        line = f"{coco.images[image]['file_name']}: bbox {list(box)}: {names}"
        if max(categories.values()) > 1:
            same.append(line)
        if len(categories) > 1:
            contrary.append(line)
    split.add("box-repeats", same)
    split.add("box-two-classes", contrary)


def check_kept(split: Split, files: Sequence[Boxes]) -> None:
    """Check that mmdetection, which drops what it cannot use in silence, learns from any box."""
    for boxes in files:
        classes = [entry["category_id"] in boxes.coco.classes for entry in boxes.coco.annotations]
        large = (boxes.xywh[:, 2:] >= 1).all(1) & (boxes.areas > 0) & (boxes.outside[1] < 1)
        skipped = boxes.flags("ignore") | boxes.flags("iscrowd")
        if (np.array(classes, bool) & large & ~skipped).any():
            return
    if split.name != "test":
        split.add("no-boxes", annotations=sum(boxes.coco.total for boxes in files))


def histogram(split: Split, files: Sequence[Coco]) -> Section:
    """How often each class occurs in the boxes of a split; reports images without boxes."""
    boxes, images, empty, total = Counter[int](), Counter[int](), [], 0
    for coco in files:
        counts: dict[Any, Counter[int]] = {number: Counter() for number in coco.images}
        for entry in coco.annotations:
            if entry["category_id"] in coco.classes:
                counts[entry["image_id"]][coco.classes[entry["category_id"]]] += 1
        total += len(counts)
        for number, some in counts.items():
            boxes.update(some)
            images.update(some.keys())
            if not some:
                empty.append(coco.images[number]["file_name"])
    if len(empty) < total:
        dropped = any(
            (i.cfg.get("filter_cfg") or {}).get("filter_empty_gt") for i in split.datasets
        )
        use = "filter_empty_gt leaves them out" if dropped else "they count as background"
        split.add("image-without-boxes", empty, of=total, use=use)
    bins = tuple(Bin(i, name, boxes[i], images[i]) for i, name in enumerate(split.classes))
    summary = f"{total:,} images, {boxes.total():,} boxes"
    return Section(split.name, summary, "boxes", bins)
