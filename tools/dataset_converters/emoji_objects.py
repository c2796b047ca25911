"""Build the demo data set of detection: the scenes of emoji_scenes.py with exact boxes and masks.

Run:    python tools/dataset_converters/emoji_objects.py --out data/emoji_objects
Needs:  what emoji_scenes.py needs, and pycocotools
Makes:  OUT/{train,val}/NNNNN.png, OUT/annotations/instances_{train,val}.json in COCO's layout,
        OUT/meta.json

Eight classes: the emoji groups of Unicode. A mask is the part of a drawing that can be seen, where
no later drawing hides it; the box is the smallest one around it. A drawing of which too little can
be seen stays in the picture, but is no instance (`MIN_PIXELS`, `MIN_SHARE`). The pictures are those
that emoji_scenes.py makes with the same options; the same seed gives the same files.
"""

import argparse
import json
import sys
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
MIN_SHARE = 0.2  # of the whole drawing


def coco_masks() -> ModuleType:
    """COCO's own functions of masks."""
    try:
        from pycocotools import mask
    except ImportError:
        raise DataError("pycocotools is missing: pip install pycocotools") from None
    return mask


def find_instances(drawn: list[emoji_scenes.Drawn]) -> tuple[list[dict[str, Any]], int]:
    """What can be seen of the drawings of a scene.

    Args:
        drawn: from `arrange`.

    Returns:
        annotations of COCO without ids, in the order of drawing, and how many drawings are left
        out because too little of them can be seen.
    """
    rle, found = coco_masks(), []
    hidden = np.zeros(drawn[0].covered.size[::-1], bool)
    for label, covered, area in reversed(drawn):
        covered = np.array(covered) > 0
        mask = covered & ~hidden
        hidden |= covered
        pixels = int(mask.sum())
        if pixels < max(MIN_PIXELS, MIN_SHARE * area):
            continue
        code = rle.encode(np.asfortranarray(mask, np.uint8))
        found.append(
            {
                "category_id": label,
                "bbox": [int(value) for value in rle.toBbox(code)],
                "area": pixels,
                "iscrowd": 0,
                "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
            }
        )
    return found[::-1], len(drawn) - len(found)


def make_picture(
    out: Path, split: str, index: int, size: int, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Write picture `index` of a split and return its instances, see `find_instances`."""
    image, drawn = emoji_scenes.arrange(*emoji_scenes.ingredients(split, index, size, seed))
    emoji_scenes.save_whole(image, picture_file(out, split, index))
    return find_instances(drawn)


def picture_file(out: Path, split: str, index: int) -> Path:
    """Where a picture is."""
    return out / split / f"{index:05}.png"


def annotation_file(out: Path, split: str) -> Path:
    """Where the annotations of a split are."""
    return out / "annotations" / f"instances_{split}.json"


def write_annotations(path: Path, scenes: list[list[dict[str, Any]]], size: int) -> None:
    """Write instances of scenes as COCO's json."""
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
    """Open everything that was made and hold it against what was promised."""
    path, rle = annotation_file(out, split), coco_masks()
    data = json.loads(path.read_text())
    if len(data["images"]) != count:
        raise DataError(f"{path} has {len(data['images'])} pictures, expected {count}.")
    for entry in data["images"]:
        picture = out / split / entry["file_name"]
        with Image.open(picture) as image:
            image.load()
            if image.size != (size, size):
                raise DataError(f"{picture} is {image.size}, expected {(size, size)}.")
    taken = np.zeros((count, size, size), bool)
    for number, entry in enumerate(data["annotations"], 1):
        code = entry["segmentation"]
        mask = rle.decode(code).astype(bool)
        found = (entry["id"], entry["area"], entry["bbox"])
        promised = (number, mask.sum(), rle.toBbox(code).tolist())
        if found != promised or (mask & taken[entry["image_id"]]).any():
            raise DataError(
                f"{path}: annotation {number} does not fit its mask. Remove the file, run again."
            )
        taken[entry["image_id"]] |= mask
    seen = {entry["category_id"] for entry in data["annotations"]}
    if seen != set(range(1, len(CLASSES) + 1)):
        raise DataError(
            f"{split}: categories {sorted(seen)} occur, expected 1 to {len(CLASSES)}. "
            "Make more pictures."
        )


def build(args: argparse.Namespace) -> None:
    """Everything, from the packages to the checked data set."""
    coco_masks()  # before anything is downloaded
    counts = {"train": args.train, "val": args.val}
    facts = {
        "classes": CLASSES, "palette": PALETTE, "min_pixels": MIN_PIXELS, "min_share": MIN_SHARE
    }  # fmt: skip
    archives = emoji_scenes.open_folder(args, [*counts, "annotations"], facts)
    wanted = [annotation_file(args.out, split) for split in counts]
    wanted += [picture_file(args.out, split, i) for split in counts for i in range(counts[split])]
    if not all(path.exists() for path in wanted):
        for split, made in emoji_scenes.draw_all(args, archives, make_picture).items():
            write_annotations(
                annotation_file(args.out, split), [instances for instances, _ in made], args.size
            )
            print(
                f"{split}: {sum(len(instances) for instances, _ in made)} instances; "
                f"{sum(left_out for _, left_out in made)} drawings can hardly be seen and are none."
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
