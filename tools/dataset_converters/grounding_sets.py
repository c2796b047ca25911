"""Phrases and boxes: RefCOCO, RefCOCO+ and RefCOCOg."""

import math
from functools import partial
from typing import Any

from official_files import Source, explain_format, read_json, read_pickle
from official_tables import Content, Options, Row, Table, TaskSet, clean

# Published boxes may reach over the edge by less than this: rounding.
_TOLERANCE = 1.0  # pixels


def _box(annotation: dict[str, Any], image: dict[str, Any]) -> str | None:
    """The corners of a box, "x0,y0,x1,y1" in pixels; None if it is not inside the image.

    Raises:
        TypeError, ValueError: if it is no box.
    """
    x, y, width, height = map(float, annotation["bbox"])
    corners = (x, y, x + width, y + height)
    limits = (float(image["width"]), float(image["height"])) * 2
    if not all(map(math.isfinite, corners)) or width <= 0 or height <= 0:
        return None
    if not all(
        -_TOLERANCE <= c <= limit + _TOLERANCE for c, limit in zip(corners, limits, strict=True)
    ):
        return None
    inside = [min(max(c, 0.0), limit) for c, limit in zip(corners, limits, strict=True)]
    return ",".join(f"{c:.2f}".rstrip("0").rstrip(".") for c in inside)


def _refcoco(
    name: str, refs_name: str, published: dict[str, int], source: Source, _: Options
) -> Content:
    """A row per phrase. Its text is `sent`, in lower case without punctuation, as is usual."""
    where = f" from github.com/lichengunc/refer ({name}.zip)"
    folder = f"{name}/" if source.has(f"{name}/{refs_name}") else ""
    refs = read_pickle(source, f"{folder}{refs_name}", where)
    instances = read_json(source, f"{folder}instances.json", where)
    content = Content({}, published=published)
    tables: dict[str, list[Row]] = {split: [] for split in published}
    with explain_format("instances.json", "images with id and size, annotations with id and bbox"):
        images = {image["id"]: image for image in instances["images"]}
        boxes = {
            annotation["id"]: _box(annotation, images[annotation["image_id"]])
            for annotation in instances["annotations"]
        }
        image_of = {a["id"]: a["image_id"] for a in instances["annotations"]}
    with explain_format(refs_name, "references with ann_id, image_id, split and sentences"):
        for ref in refs:
            if image_of[ref["ann_id"]] != ref["image_id"]:
                raise ValueError(f"reference {ref['ref_id']} and its box have two images")
            file, box = images[ref["image_id"]]["file_name"], boxes[ref["ann_id"]]
            for sentence in ref["sentences"]:
                text = clean(sentence["sent"])
                if box is None:
                    content.left_out["have a box that is not inside the image"].append(
                        f"{file} (annotation {ref['ann_id']})"
                    )
                elif not text:
                    content.left_out["have an empty text"].append(file)
                else:
                    row = {"image": (f"train2014/{file}", file), "text": text, "region_coord": box}
                    tables[ref["split"]].append(row)
    content.tables = {split: Table(rows) for split, rows in tables.items()}
    return content


_PUBLISHED = {
    "refcoco": {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095},
    "refcoco+": {"train": 120_191, "val": 10_758, "testA": 5_726, "testB": 4_889},
    "refcocog": {"train": 80_512, "val": 4_896, "test": 9_602},
}
SETS = {
    name: TaskSet(
        partial(_refcoco, name, refs, published),
        f"{name}.zip with {refs} and instances.json, train2014.zip of COCO",
    )
    for (name, published), refs in zip(
        _PUBLISHED.items(), ("refs(unc).p", "refs(unc).p", "refs(umd).p"), strict=True
    )
}
