"""Boxes of COCO files: do they lie in their pictures, and do their numbers mean what COCO's mean?"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmonepeace.checks.coco import Coco, place_of
from mmonepeace.checks.decoding import Picture
from mmonepeace.checks.masks import check_masks
from mmonepeace.checks.places import LARGE_SHARE, SLACK, lines_of, outside
from mmonepeace.checks.report import Bin, Report, Section
from mmonepeace.checks.splits import Part, Split

_FEW, _OUTSIDE = 3, 0.2  # boxes, and share of them outside, from which on a layout is doubted

# What else four numbers may mean: meaning, and boxes (N, 4) to COCO's.
_LAYOUTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "box-xyxy": (
        "two corners, [x1, y1, x2, y2]",
        lambda b: np.stack([b[:, 0], b[:, 1], b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]], 1),
    ),
    "box-centre": (
        "the centre, width and height",
        lambda b: np.stack([b[:, 0] - b[:, 2] / 2, b[:, 1] - b[:, 3] / 2, b[:, 2], b[:, 3]], 1),
    ),
    "box-swapped": ("[y, x, height, width]", lambda b: b[:, [1, 0, 3, 2]]),
}


def check_split(
    split: Split, files: Mapping[Part, Coco], pictures: Sequence[Picture], report: Report
) -> tuple[Bin, ...]:
    """Check boxes and masks of a split.

    Args:
        split: the split.
        files: its COCO files.
        pictures: its pictures that can be read.
        report: gets the findings.

    Returns:
        the histogram.
    """
    by_path = {picture.path: picture for picture in pictures}
    seen = [(s, by_path[s.path]) for s in split.samples if s.path in by_path]
    differ = []
    for sample, picture in seen:
        entry = files[sample.part].images[sample.label]
        stated = (entry["width"], entry["height"])
        if stated != picture.size:
            why = ", turned by its EXIF data" if stated == picture.stored_size else ""
            differ.append(f"{picture.path}: {picture.size}{why}, but stated {stated}")
    if differ:
        what = "pictures have another (width, height) than their COCO file says"
        report.add("image-size-differs", split.name, what, differ, of=len(seen))
    for part, coco in files.items():
        sizes = {number: (e["width"], e["height"]) for number, e in coco.images.items()}
        sizes |= {sample.label: picture.size for sample, picture in seen if sample.part is part}
        with_mask = any(step.get("with_mask") for step in part.steps("LoadAnnotations"))
        _check_file(split.name, coco, sizes, with_mask, report)
    return _count(split, list(files.values()), report)


def _check_file(
    split: str,
    coco: Coco,
    sizes: Mapping[Any, tuple[int, int]],
    with_mask: bool,
    report: Report,
) -> None:
    _check_flags(split, coco, report)
    boxes = np.array([entry["bbox"] for entry in coco.annotations], float).reshape(-1, 4)
    frames = np.array([sizes[a["image_id"]] for a in coco.annotations], float).reshape(-1, 2)
    flat = (boxes[:, 2:] <= 0).any(1)
    if flat.any():
        what = "boxes have no area: width or height is 0 or below"
        report.add("box-no-area", split, what, lines_of(coco, flat), of=len(boxes))
    if _mean_something_else(split, coco, boxes[~flat], frames[~flat], report):
        return
    _check_places(split, coco, boxes, frames, ~flat, report)
    _check_areas(split, coco, boxes, ~flat, report)
    _check_repeats(split, coco, report)
    check_masks(split, coco, boxes, frames, with_mask, report)


def _check_flags(split: str, coco: Coco, report: Report) -> None:
    flags = [entry.get("iscrowd", 0) for entry in coco.annotations]
    wrong = np.array([flag not in (0, 1) for flag in flags], bool)
    if wrong.any():
        lines = lines_of(coco, wrong, [f"iscrowd {flag!r}" for flag in flags])
        report.add("iscrowd-values", split, "iscrowd is neither 0 nor 1", lines)
    for key, code, what in (
        ("iscrowd", "iscrowd", "boxes are groups (iscrowd), which training ignores"),
        ("ignore", "annotation-ignored", "boxes have ignore=1, which training leaves out"),
    ):
        chosen = np.array([bool(entry.get(key)) for entry in coco.annotations], bool)
        if chosen.any():
            level = "error" if chosen.all() else None
            report.add(code, split, what, lines_of(coco, chosen), level=level, of=len(flags))


def _mean_something_else(
    split: str, coco: Coco, boxes: np.ndarray, frames: np.ndarray, report: Report
) -> bool:
    """Whether the numbers of all boxes mean something else than COCO's."""
    if not len(boxes):
        return False
    if boxes.max() <= 1.01 and (boxes[:, 2:] < 1).any() and frames.min() > 4:
        what = "the boxes are shares of the picture, from 0 to 1, not pixels"
        report.add("box-normalised", split, what, [coco.path])
        return True
    leave = outside(boxes, frames)[0] > SLACK
    if len(boxes) < _FEW or leave.mean() < _OUTSIDE:
        return False
    for code, (meaning, to_coco) in _LAYOUTS.items():
        other = to_coco(boxes)
        if (other[:, 2:] > 0).all() and (outside(other, frames)[0] <= SLACK).all():
            report.add(
                code,
                split,
                f"{leave.mean():.0%} of the boxes leave their pictures, and all would fit if bbox were "
                f"{meaning}",
                [coco.path],
                share=float(leave.mean()),
            )
            return True
    return False


def _check_places(
    split: str,
    coco: Coco,
    boxes: np.ndarray,
    frames: np.ndarray,
    good: np.ndarray,
    report: Report,
) -> None:
    reach, share = outside(boxes, frames)
    where = [f"picture {w:.0f} x {h:.0f}" for w, h in frames]
    gone = good & (share >= 1)
    if gone.any():
        what = "boxes lie outside their pictures"
        report.add("box-outside", split, what, lines_of(coco, gone, where), of=len(boxes))
    partly = good & ~gone & (reach > SLACK)
    if partly.any():
        most = share[partly].max()
        report.add(
            "box-leaves-image",
            split,
            f"boxes leave their pictures, by up to {reach[partly].max():.0f} pixels and {most:.0%} of "
            "their area",
            lines_of(coco, partly, where),
            level="error" if most > LARGE_SHARE else None,
            of=len(boxes),
        )
    tiny = good & (boxes[:, 2:] < 1).any(1)
    if tiny.any():
        what = "boxes are narrower or lower than a pixel: mmdetection drops them"
        report.add("box-tiny", split, what, lines_of(coco, tiny), of=len(boxes))


def _check_areas(
    split: str, coco: Coco, boxes: np.ndarray, good: np.ndarray, report: Report
) -> None:
    areas = np.array([entry["area"] for entry in coco.annotations], float)
    products = boxes[:, 2:].prod(1)
    shown = [f"area {area:g}, box {box:g}" for area, box in zip(areas, products, strict=True)]
    none = good & (areas <= 0)
    if none.any():
        what = "annotations have an area of 0 or below: mmdetection drops their boxes"
        report.add("area-not-positive", split, what, lines_of(coco, none, shown), of=len(boxes))
    # Masks fill a part of their box only, and rounding adds a little.
    masked = np.array([bool(entry.get("segmentation")) for entry in coco.annotations], bool)
    least = np.where(masked, 0.01, 0.5)
    wrong = good & ~none & ((areas > 1.2 * products) | (areas < least * products))
    wrong &= np.abs(areas - products) > 16  # pixels: small boxes are rounded coarsely
    if wrong.any():
        what = "area is far from width * height; scores by size go by it"
        report.add("area-differs", split, what, lines_of(coco, wrong, shown), of=len(boxes))


def _check_repeats(split: str, coco: Coco, report: Report) -> None:
    groups: dict[tuple[Any, ...], Counter[Any]] = defaultdict(Counter)
    for entry in coco.annotations:
        groups[entry["image_id"], place_of(entry)][entry["category_id"]] += 1
    same, contrary = [], []
    for (image, place), kinds in groups.items():
        names = ", ".join(coco.names[kind] for kind in kinds.elements())
        line = f"{coco.images[image]['file_name']}: bbox {list(place)}: {names}"
        if max(kinds.values()) > 1:
            same.append(line)
        if len(kinds) > 1:
            contrary.append(line)
    if same:
        report.add("box-repeats", split, "boxes are there more than once", same)
    if contrary:
        report.add("box-two-classes", split, "boxes have several classes", contrary)


def _count(split: Split, files: Sequence[Coco], report: Report) -> tuple[Bin, ...]:
    """Histogram of a split; reports pictures without boxes."""
    boxes, images, empty, total = Counter[int](), Counter[int](), [], 0
    for coco in files:
        kinds: dict[Any, Counter[int]] = {number: Counter() for number in coco.images}
        for entry in coco.annotations:
            if entry["category_id"] in coco.classes:
                kinds[entry["image_id"]][coco.classes[entry["category_id"]]] += 1
        total += len(kinds)
        for number, found in kinds.items():
            boxes.update(found)
            images.update(found.keys())
            if not found:
                empty.append(coco.images[number]["file_name"])
    if len(empty) == total and files and split.name != "test":
        report.add("no-boxes", split.name, "there is no box of any class")
    elif 0 < len(empty) < total:
        dropped = any((p.cfg.get("filter_cfg") or {}).get("filter_empty_gt") for p in split.parts)
        use = "filter_empty_gt leaves them out" if dropped else "they count as background"
        what = f"pictures have no box of a class; {use}"
        report.add("image-without-boxes", split.name, what, empty, of=total)
    bins = tuple(Bin(i, name, boxes[i], images[i]) for i, name in enumerate(split.classes))
    summary = f"{total:,} pictures, {boxes.total():,} boxes"
    report.sections.append(Section(split.name, summary, "boxes", bins))
    return bins
