"""COCO files: read as they are, because mmdetection passes over much of what is wrong in them."""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.images import SUFFIXES, check_missing
from mmonepeace.checks.report import Report
from mmonepeace.checks.splits import Part, Sample, Split, kind_of, walk

Entry = dict[str, Any]
Document = dict[str, list[Entry]]
_HUGE = 1e12  # beyond it products overflow
_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


@dataclass(eq=False)
class Coco:
    """What a COCO file says, without entries that nothing can be made of.

    Attributes:
        path: its file.
        images: id -> entry.
        annotations: those of known images and categories, with four finite numbers as their box.
        names: category id -> name.
        classes: category id -> number of the class, as mmdetection assigns them.
    """

    path: str
    images: dict[Hashable, Entry]
    names: dict[Hashable, str]
    annotations: list[Entry] = field(default_factory=list)
    classes: dict[Hashable, int] = field(default_factory=dict)


def list_samples(split: Split, report: Report) -> dict[Part, Coco]:
    """Fill a split with the pictures of its COCO files; report what is wrong with the entries.

    The label of a sample is its image id.
    """
    files = {}
    for part in split.parts:
        document = _read(part.dataset.ann_file, split.name, report)
        if document is None:
            continue
        files[part] = coco = _check_entries(part, document, split.name, report)
        folder = part.folder("img")
        split.samples += [
            Sample(str(folder / entry["file_name"]), number, part)
            for number, entry in coco.images.items()
        ]
    check_missing(split, report)
    return files


# --------------------------------------------------------------------------------------- reading


def _read(path: str, split: str, report: Report) -> Document | None:
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        report.add("json-missing", split, f"{error}")
        return None
    except ValueError as error:
        report.add("json-unreadable", split, f"{path} is no JSON: {error}")
        return None
    if not isinstance(document, dict):
        report.add("json-keys", split, f"{path} holds a {type(document).__name__}, not an object")
        return None
    if split == "test":  # may be without
        document.setdefault("annotations", [])
    lacks, whole = [], {}
    for name, keys in _NEEDED.items():
        entries = document.get(name)
        if not isinstance(entries, list):
            lacks.append(f"{path}: {name} is {_shown(document, name)}")
            entries = []
        whole[name] = []
        for i, entry in enumerate(entries):
            wrong = [key for key in keys if not _is_right(key, entry)]
            lacks += [f"{path}: {name}[{i}]: {key} is {_shown(entry, key)}" for key in wrong]
            if not wrong:
                whole[name].append(entry)
    if lacks:
        report.add("json-keys", split, "values are missing or of another kind than COCO's", lacks)
    return whole


def _is_right(key: str, entry: Any) -> bool:
    """Whether an entry has a value of the kind of its key."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if key in ("file_name", "name"):
        return isinstance(value, str) and bool(value)
    if key in ("width", "height"):
        return is_number(value) and value > 0
    if key == "area":
        return is_number(value)
    if key == "bbox":
        return isinstance(value, list)
    whole = is_number(value) and value == int(value)
    return isinstance(value, str) or whole


def is_number(value: Any) -> bool:
    """Whether something is a number that can be one of pixels: not NaN, nor beyond all pictures."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < _HUGE


def _shown(entry: Any, key: str) -> str:
    if not isinstance(entry, dict):
        return f"in a {type(entry).__name__}, not in an object"
    return repr(entry[key])[:40] if key in entry else "missing"


def _check_entries(part: Part, document: Document, split: str, report: Report) -> Coco:
    path = part.dataset.ann_file
    for name, code in (
        ("images", "image-id-repeats"),
        ("annotations", "annotation-id-repeats"),
        ("categories", "category-repeats"),
    ):
        twice = _repeated(entry["id"] for entry in document[name])
        if twice:
            what = f"ids of {name} occur more than once"
            report.add(code, split, what, [f"{path}: id {number!r}" for number in twice])
    ids = {(entry["id"], entry["file_name"]) for entry in document["images"]}
    twice = _repeated(name for _, name in ids)
    if twice:
        what = "pictures are listed under several ids, which tears their boxes apart"
        report.add("file-name-repeats", split, what, [f"{path}: {name}" for name in sorted(twice)])
    coco = Coco(
        path,
        {entry["id"]: entry for entry in document["images"]},
        {entry["id"]: entry["name"] for entry in document["categories"]},
    )
    _check_categories(part, coco, document["categories"], split, report)
    lost: dict[str, list[str]] = defaultdict(list)
    for entry in document["annotations"]:
        line = f"{path}: annotation {entry['id']}"
        if entry["image_id"] not in coco.images:
            lost["annotation-unknown-image"].append(f"{line}: image_id {entry['image_id']!r}")
        elif entry["category_id"] not in coco.names:
            number = entry["category_id"]
            lost["annotation-unknown-category"].append(f"{line}: category_id {number!r}")
        elif len(entry["bbox"]) != 4 or not all(map(is_number, entry["bbox"])):
            lost["box-malformed"].append(f"{line}: bbox {entry['bbox']}")
        else:
            coco.annotations.append(entry)
    whats = {
        "annotation-unknown-image": "annotations name a picture that is not listed; its ids are such "
        f"as {_examples(coco.images)}",
        "annotation-unknown-category": "annotations name a category that is not listed; its ids are "
        f"such as {_examples(coco.names)}",
        "box-malformed": "boxes are not four finite numbers",
    }
    for code, lines in lost.items():
        report.add(code, split, whats[code], lines, of=len(document["annotations"]))
    return coco


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, times in Counter(values).items() if times > 1]


def _examples(ids: Iterable[Any]) -> str:
    # Quoted, because 1 and "1" are different ids.
    return ", ".join(map(repr, list(ids)[:3]))


def _check_categories(
    part: Part, coco: Coco, categories: Sequence[Entry], split: str, report: Report
) -> None:
    listed, classes = [entry["name"] for entry in categories], part.classes
    twice = _repeated(coco.names.values())
    if twice:
        what = f"{coco.path}: categories have the same name"
        report.add("category-repeats", split, what, twice)
    known = [name for name in dict.fromkeys(listed) if name in classes]
    absent = [name for name in classes if name not in listed]
    if absent:
        near = {name: get_close_matches(name, listed, 1, 0.5) for name in absent}
        report.add(
            "class-not-in-json",
            split,
            f"classes are no categories of {coco.path}, which has "
            f"{', '.join(map(repr, listed[:8]))}; the numbers of the others shift",
            [f"{n!r}" + (f", perhaps {near[n][0]!r}" if near[n] else "") for n in absent],
            of=len(classes),
        )
    elif known != list(classes):
        report.add(
            "class-order",
            split,
            "classes stand in another order than the categories of the file: mmdetection numbers them "
            "in the file's order, so each gets the name of another",
            fix=f"metainfo=dict(classes={tuple(known)})",
        )
    passed = [name for name in dict.fromkeys(listed) if name not in classes]
    if passed:
        what = "categories are no classes: their boxes are passed over"
        report.add("category-not-in-classes", split, what, passed, of=len(listed))
    order = [entry["id"] for entry in categories if entry["name"] in classes]
    coco.classes = {number: i for i, number in enumerate(dict.fromkeys(order))}


# --------------------------------------------------------------------------------- around a file


def check_folders(files: Mapping[Split, Mapping[Part, Coco]], report: Report) -> None:
    """Find pictures in the folders that no COCO file lists."""
    known: set[Path] = set()
    users: dict[Path, str] = {}
    for split, parts in files.items():
        for part, coco in parts.items():
            folder = part.folder("img")
            known |= {folder / entry["file_name"] for entry in coco.images.values()}
            users.setdefault(folder, split.name)
    for folder, split in users.items():
        found = sorted(p for p in folder.rglob("[!.]*") if p.suffix.lower() in SUFFIXES)
        lines = [str(path) for path in found if path not in known]
        if lines:
            what = "pictures stand in no COCO file and are passed over"
            report.add("image-unlisted", split, what, lines, of=len(found))


def check_evaluators(
    cfg: Config, files: Mapping[Split, Mapping[Part, Coco]], report: Report
) -> None:
    """Find metrics that compare with another file than that of their split."""
    for split, parts in files.items():
        own = {Path(coco.path).resolve(): coco.path for coco in parts.values()}
        for loader in split.name.split(" and ") if own else ():
            for metric in walk(cfg.get(f"{loader}_evaluator") or ()):
                path = metric.get("ann_file")
                if kind_of(metric) == "CocoMetric" and path and Path(path).resolve() not in own:
                    report.add(
                        "evaluator-ann-file",
                        split.name,
                        f"{loader}_evaluator compares with {path}, which is not the file of the data",
                        fix=f"--cfg-options {loader}_evaluator.ann_file={next(iter(own.values()))}",
                    )


def contents(split: Split, files: Mapping[Part, Coco]) -> dict[str, Hashable]:
    """Path of a picture -> what its boxes are."""
    found: dict[str, Hashable] = {}
    for part, coco in files.items():
        boxes: dict[Hashable, set[Hashable]] = defaultdict(set)
        for entry in coco.annotations:
            boxes[entry["image_id"]].add((coco.names[entry["category_id"]], place_of(entry)))
        for sample in split.samples:
            if sample.part is part:
                found[sample.path] = frozenset(boxes[sample.label])
    return found


def place_of(entry: Entry) -> tuple[float, ...]:
    """The box of an annotation, rounded so that equal ones are equal."""
    return tuple(round(float(value), 1) for value in entry["bbox"])
