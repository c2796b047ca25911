"""Build the demo data set of detection: the scenes of emoji_scenes.py with exact boxes and masks.

Run:    python tools/dataset_converters/emoji_objects.py --out data/emoji_objects
Needs:  what emoji_scenes.py needs, and pycocotools
Makes:  OUT/{train,val}/NNNNN.png, OUT/annotations/instances_{train,val}.json in COCO's layout,
        OUT/meta.json

Eight classes: the emoji groups of Unicode. A mask is the visible part of a drawing, which no later
drawing hides; its box is the smallest one around it. A drawing that is hardly visible stays in the
image, but is not an instance (`MIN_PIXELS`, `MIN_FRACTION`). The images are those that
emoji_scenes.py makes with the same options; the same seed gives the same files.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import emoji_scenes
    import numpy as np
    from downloads import DataError, run_converter
    from PIL import Image

CLASSES = emoji_scenes.CLASSES[1:]  # categories 1 to 8; no background
PALETTE = emoji_scenes.PALETTE[1:]
MIN_PIXELS = 32
MIN_FRACTION = 0.2  # of the complete drawing


def coco_masks() -> ModuleType:
    """COCO's functions for masks."""
    try:
        from pycocotools import mask
    except ImportError:
        raise DataError("pycocotools is missing: pip install pycocotools") from None
    return mask


def find_instances(drawn: list[emoji_scenes.Drawn]) -> tuple[list[dict[str, Any]], int]:
    """Visible parts of the drawings of a scene.

    Args:
        drawn: from `arrange`.

    Returns:
        COCO annotations without ids, in the order of drawing, and the number of drawings that are
        left out because they are hardly visible.
    """
    rle, instances = coco_masks(), []
    hidden = np.zeros(drawn[0].covered.size[::-1], bool)
    for label, covered, area in reversed(drawn):
        covered = np.array(covered) > 0
        mask = covered & ~hidden
        hidden |= covered
        pixels = int(mask.sum())
        if pixels < max(MIN_PIXELS, MIN_FRACTION * area):
            continue
        code = rle.encode(np.asfortranarray(mask, np.uint8))
        instances.append(
            {
                "category_id": label,
                "bbox": [int(value) for value in rle.toBbox(code)],
                "area": pixels,
                "iscrowd": 0,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
        )
    return instances[::-1], len(drawn) - len(instances)


def make_image(
    out: Path, split: str, index: int, size: int, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Write image `index` of a split and return its instances, see `find_instances`."""
    image, drawn = emoji_scenes.arrange(*emoji_scenes.ingredients(split, index, size, seed))
    emoji_scenes.save(image, image_file(out, split, index))
    return find_instances(drawn)


def image_file(out: Path, split: str, index: int) -> Path:
    """Path of an image."""
    return out / split / f"{index:05}.png"


def annotation_file(out: Path, split: str) -> Path:
    """Path of the annotations of a split."""
    return out / "annotations" / f"instances_{split}.json"


def write_annotations(path: Path, scenes: list[list[dict[str, Any]]], size: int) -> None:
    """Write the instances of all scenes as COCO's JSON."""
    annotations = [
        {"id": 0, "image_id": index, **instance}
        for index, instances in enumerate(scenes)
        for instance in instances
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    images = [
        {"id": index, "file_name": f"{index:05}.png", "width": size, "height": size}
        for index in range(len(scenes))
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    with atomic_file(path, concurrent=True) as temporary:
        temporary.write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )


def check(out: Path, split: str, count: int, size: int) -> None:
    """Open all files, and check that sizes, boxes and masks are as expected."""
    path, rle = annotation_file(out, split), coco_masks()
    data = json.loads(path.read_text())
    if len(data["images"]) != count:
        raise DataError(f"{path} has {len(data['images'])} images, expected {count}.")
    for entry in data["images"]:
        image_path = out / split / entry["file_name"]
        with Image.open(image_path) as image:
            image.load()
            if image.size != (size, size):
                raise DataError(f"{image_path} is {image.size}, expected {(size, size)}.")
    taken = np.zeros((count, size, size), bool)
    for number, entry in enumerate(data["annotations"], 1):
        code = entry["segmentation"]
        mask = rle.decode(code).astype(bool)
        expected = (number, mask.sum(), rle.toBbox(code).tolist())
        stored = (entry["id"], entry["area"], entry["bbox"])
        if stored != expected or (mask & taken[entry["image_id"]]).any():
            raise DataError(
                f"{path}: annotation {number} does not fit its mask. Remove the file, run again."
            )
        taken[entry["image_id"]] |= mask
    seen = {entry["category_id"] for entry in data["annotations"]}
    if seen != set(range(1, len(CLASSES) + 1)):
        raise DataError(
            f"{split}: categories {sorted(seen)} occur, expected 1 to {len(CLASSES)}. "
            "Make more images."
        )


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on, and check it."""
    coco_masks()  # before anything is downloaded
    counts = {"train": args.train, "val": args.val}
    facts = {
        "classes": CLASSES, "palette": PALETTE, "min_pixels": MIN_PIXELS, "min_share": MIN_FRACTION
    }  # fmt: skip
    archives = emoji_scenes.open_folder(args, [*counts, "annotations"], facts)
    wanted = [annotation_file(args.out, split) for split in counts]
    wanted += [image_file(args.out, split, i) for split in counts for i in range(counts[split])]
    if not all(path.exists() for path in wanted):
        load = partial(emoji_scenes.load_drawings, archives, args.per_group)
        for split, made in emoji_scenes.draw_all(args, load, make_image).items():
            write_annotations(
                annotation_file(args.out, split), [instances for instances, _ in made], args.size
            )
            print(
                f"{split}: {sum(len(instances) for instances, _ in made)} instances; "
                f"{sum(left_out for _, left_out in made)} drawings are hardly visible and left out."
            )
    for split, count in counts.items():
        check(args.out, split, count, args.size)
    print(f"{args.out}: {args.train} training and {args.val} validation images, checked.")


def main() -> int:
    """Command line."""
    args = emoji_scenes.parse_options(__doc__, "data/emoji_objects")
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
