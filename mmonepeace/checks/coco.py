"""COCO files: read as they are, because mmdetection ignores much of what is wrong in them."""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmonepeace.checks.images import IMAGE_SUFFIXES, check_missing
from mmonepeace.checks.splits import DatasetInfo, Sample, Split

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
    """The contents of a COCO file, without entries that cannot be used.

    Attributes:
        path: its file.
        images: id -> entry.
        names: category id -> name.
        annotations: those of known images and categories, with four finite numbers as their box.
        classes: category id -> index of the class, as mmdetection assigns them.
        total: annotations in the file, unusable ones included.
    """

    path: str
    images: dict[Hashable, Entry]
    names: dict[Hashable, str]
    annotations: list[Entry] = field(default_factory=list)
    classes: dict[Hashable, int] = field(default_factory=dict)
    total: int = 0

    def file_name(self, annotation: Entry) -> str:
        """That of the image of an annotation."""
        return self.images[annotation["image_id"]]["file_name"]


Files = Mapping[DatasetInfo, Coco]


def list_samples(split: Split) -> Files:
    """Fill a split with the images of its COCO files; report what is wrong with the entries.

    The label of a sample is its image id.
    """
    files = {}
    for info in split.existing():
        if "img" not in info.built.data_prefix:
            error = "data_prefix has no img, the folder of the images"
            split.add("folder-missing", error=error)
            continue
        document = _read(info.built.ann_file, split)
        if document is None:
            continue
        files[info] = coco = _check_entries(info, document, split)
        if not coco.images:
            split.add("no-images", error=f"{coco.path} has no images", hint="")
        split.samples += [
            Sample(str(info.folder("img") / entry["file_name"]), number, info)
            for number, entry in coco.images.items()
        ]
    check_missing(split)
    return files


def _read(path: str, split: Split) -> Document | None:
    try:
        # Decoded as pycocotools does, which refuses a byte order mark and UTF-16.
        document = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        split.add("json-missing", error=error)
        return None
    except (ValueError, RecursionError) as error:
        split.add("json-unreadable", path=path, error=error)
        return None
    if not isinstance(document, dict):
        split.add("json-keys", [f"{path}: a {type(document).__name__}, not an object"])
        return None
    if split.name == "test":  # may be without
        document.setdefault("annotations", [])
    problems, valid = [], dict[str, list[Any]]()
    for name, keys in _NEEDED.items():
        entries = document.get(name)
        if not isinstance(entries, list):
            problems.append(f"{path}: {name} is {_shown(document, name)}")
            entries = []
        valid[name] = []
        for i, entry in enumerate(entries):
            wrong = [key for key in keys if not _is_right(key, entry)]
            place = f"{path}: {_named(name, i, entry)}"
            problems += [f"{place}: {key} is {_shown(entry, key)}" for key in wrong]
            if not wrong:
                valid[name].append(entry)
    split.add("json-keys", problems)
    return valid


def _is_right(key: str, entry: Any) -> bool:
    """Whether an entry has a value of the type of its key."""
    value: Any = entry.get(key) if isinstance(entry, dict) else None
    if key in ("file_name", "name"):
        return isinstance(value, str) and bool(value)
    if key in ("width", "height"):
        return is_number(value) and value > 0
    if key == "area":
        return is_number(value)
    if key == "bbox":
        return isinstance(value, list)
    return isinstance(value, str) or is_whole(value)


def _named(name: str, index: int, entry: Any) -> str:
    """What a message calls an entry: its place, and its id or file where it has one."""
    known = entry if isinstance(entry, dict) else {}
    told = [f"{key} {known[key]!r}"[:60] for key in ("id", "file_name") if key in known]
    return f"{name}[{index}]" + f" ({', '.join(told)})" * bool(told)


def is_whole(value: Any) -> bool:
    """Whether something is a whole number, such as an id: of any size, 3.0 included."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether something is a number of pixels: not NaN, nor larger than any image."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) < _HUGE


def _shown(entry: Any, key: str) -> str:
    if not isinstance(entry, dict):
        return f"in a {type(entry).__name__}, not in an object"
    return repr(entry[key])[:40] if key in entry else "missing"


def _check_entries(info: DatasetInfo, document: Document, split: Split) -> Coco:
    path = info.built.ann_file
    for name, code in (
        ("images", "image-id-repeats"),
        ("annotations", "annotation-id-repeats"),
        ("categories", "category-repeats"),
    ):
        ids = _repeated(entry["id"] for entry in document[name])
        split.add(code, [f"{path}: {name}: id {number!r}" for number in ids])
    _check_ids(path, document, split)
    listed = {(entry["id"], entry["file_name"]) for entry in document["images"]}
    names = sorted(_repeated(name for _, name in listed))
    split.add("file-name-repeats", [f"{path}: {name}" for name in names])
    coco = Coco(
        path,
        {entry["id"]: entry for entry in document["images"]},
        {entry["id"]: entry["name"] for entry in document["categories"]},
        total=len(document["annotations"]),
    )
    _check_categories(info, coco, document["categories"], split)
    bad: dict[str, list[str]] = defaultdict(list)
    for entry in document["annotations"]:
        line = f"{path}: annotation {entry['id']}"
        if entry["image_id"] not in coco.images:
            bad["annotation-unknown-image"].append(f"{line}: image_id {entry['image_id']!r}")
        elif entry["category_id"] not in coco.names:
            number = entry["category_id"]
            bad["annotation-unknown-category"].append(f"{line}: category_id {number!r}")
        elif len(entry["bbox"]) != 4 or not all(map(is_number, entry["bbox"])):
            bad["box-malformed"].append(f"{line}: bbox {entry['bbox']}")
        else:
            coco.annotations.append(entry)
    for code, lines in bad.items():
        ids = coco.images if code == "annotation-unknown-image" else coco.names
        # Quoted, because 1 and "1" are different ids.
        examples = ", ".join(map(repr, list(ids)[:3]))
        split.add(code, lines, of=coco.total, ids=examples)
    return coco


def _check_ids(path: str, document: Document, split: Split) -> None:
    """Find ids that pycocotools, which computes AP, cannot use."""
    annotations = document["annotations"]
    zero = [f"{path}: annotation 0 of image {a['image_id']!r}" for a in annotations if not a["id"]]
    split.add("annotation-id-zero", zero)
    texts = [f"{path}: annotation {a['id']!r}" for a in annotations if isinstance(a["id"], str)]
    split.add("annotation-id-text", texts, of=len(annotations))
    other = [
        f"{path}: categories: id {c['id']!r}"
        for c in document["categories"]
        if type(c["id"]) is not int
    ]
    split.add("category-id-type", other, of=len(document["categories"]))
    by_type: dict[bool, list[Any]] = defaultdict(list)
    for entry in document["images"]:
        by_type[isinstance(entry["id"], str)].append(entry["id"])
    if len(by_type) == 2:
        fewer = min(by_type.values(), key=len)
        split.add("ids-of-two-types", [f"{path}: images: id {number!r}" for number in fewer])


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, times in Counter(values).items() if times > 1]


def _check_categories(
    info: DatasetInfo, coco: Coco, categories: Sequence[Entry], split: Split
) -> None:
    listed, classes = [entry["name"] for entry in categories], info.classes
    twice = _repeated(coco.names.values())
    split.add("category-repeats", [f"{coco.path}: categories: {name}" for name in twice])
    known = tuple(name for name in dict.fromkeys(listed) if name in classes)
    absent = [name for name in classes if name not in listed]
    near = {name: get_close_matches(name, listed, 1, 0.5) for name in absent}
    split.add(
        "class-not-in-json",
        [f"{n!r}" + (f", perhaps {near[n][0]!r}" if near[n] else "") for n in absent],
        of=len(classes),
        path=coco.path,
        categories=", ".join(map(repr, listed[:8])),
    )
    if not absent and known != classes:
        split.add("class-order", path=coco.path, classes=known)
    skipped = [name for name in dict.fromkeys(listed) if name not in classes]
    split.add("category-not-in-classes", skipped, of=len(listed))
    order = [entry["id"] for entry in categories if entry["name"] in classes]
    coco.classes = {number: i for i, number in enumerate(dict.fromkeys(order))}


def check_unlisted(files: Mapping[Split, Files]) -> None:
    """Find images in the folders that no COCO file lists."""
    known: set[Path] = set()
    users: dict[Path, Split] = {}
    for split, documents in files.items():
        for info, coco in documents.items():
            folder = info.folder("img")
            known |= {folder / entry["file_name"] for entry in coco.images.values()}
            users.setdefault(folder, split)
    for folder, split in users.items():
        images = sorted(p for p in folder.rglob("[!.]*") if p.suffix.lower() in IMAGE_SUFFIXES)
        unlisted = [str(path) for path in images if path not in known]
        split.add("image-unlisted", unlisted, of=len(images))


def contents(split: Split, files: Files) -> dict[str, Hashable]:
    """Path of an image -> what its boxes are, equal for equal boxes."""
    labels: dict[str, Hashable] = {}
    for info, coco in files.items():
        boxes: dict[Hashable, set[Hashable]] = defaultdict(set)
        for entry in coco.annotations:
            boxes[entry["image_id"]].add((coco.names[entry["category_id"]], rounded_box(entry)))
        for sample in split.samples:
            if sample.dataset is info:
                labels[sample.path] = frozenset(boxes[sample.label])
    return labels


def rounded_box(entry: Entry) -> tuple[float, ...]:
    """The box of an annotation, rounded so that equal ones are equal."""
    return tuple(round(float(value), 1) for value in entry["bbox"])
