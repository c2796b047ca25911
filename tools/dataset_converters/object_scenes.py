"""Scenes of named drawings: which object is where, and what can be said of it without doubt.

A box is that of the visible part of a drawing, which no later drawing hides. All relations have
three values: what a person could see either way is neither true nor false, but None.
"""

import argparse
import json
import random
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import emoji_scenes
import emoji_sets
import numpy as np
from downloads import DataError
from emoji_sets import ARTISTS
from PIL import Image

from mmonepeace.atomic_file import atomic_file

# Kind -> name -> Unicode's name. All artists draw these much alike, and no two of them alike.
KINDS = {
    "animal": {"dog": "dog face", "frog": "frog"},
    "fruit": {"banana": "banana", "strawberry": "strawberry"},
    "vehicle": {"bus": "bus", "airplane": "airplane"},
    "sweet": {"doughnut": "doughnut", "ice cream": "ice cream"},
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
# What these photographs show has a name or a kind above.
SHOWS_AN_OBJECT = {
    "chelsea.png": "animal", "rocket.jpg": "vehicle", "astronaut.png": "vehicle",
    "motorcycle_left.png": "vehicle", "motorcycle_right.png": "vehicle",
}  # fmt: skip
PHOTOGRAPHS = {
    split: tuple(name for name in names if name not in SHOWS_AN_OBJECT)
    for split, names in emoji_scenes.PHOTOGRAPHS.items()
}
MIN_VISIBLE = 0.4  # of a complete drawing
OBJECTS = (2, 4)  # least and most in a scene
WIDTHS = (0.25, 0.45)  # of a drawing, in sides of the scene
MARGIN = 0.08  # least distance of two centres that people see, in sides of the scene
RATIO = 1.4  # least ratio of two areas that people see
WORDS = ("left of", "right of", "above", "below")
EXTREMES = ("leftmost", "rightmost", "topmost", "bottommost")

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; x1 and y1 are those after the last."""


class SceneObject(NamedTuple):
    """A drawing of a scene, as it is seen."""

    name: str
    box: Box
    pixels: int
    """That are visible."""
    area: int
    """Pixels of the complete drawing."""

    @property
    def kind(self) -> str:
        return KIND_OF[self.name]

    @property
    def visible(self) -> float:
        """Fraction of the drawing."""
        return self.pixels / self.area


class Scene(NamedTuple):
    """What is on an image, in the order of drawing."""

    size: int
    objects: list[SceneObject]

    def named(self, name: str) -> list[SceneObject]:
        """Objects with a name, or of a kind."""
        return [item for item in self.objects if name in (item.name, item.kind)]


def plural(noun: str) -> str:
    """Of a name or a kind."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def with_article(noun: str) -> str:
    """Such as a dog, an octopus."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def is_left_of(first: Box, second: Box, size: int) -> bool | None:
    """Whether a box is left of another one; None where that depends on the beholder.

    It is if its centre is, by at least `MARGIN` and more than it is above or below, and the boxes
    overlap by less than a quarter of the narrower one. It is not if its centre is not.
    """
    right = (second[0] + second[2] - first[0] - first[2]) / 2
    if right <= 0:
        return False
    down = abs(second[1] + second[3] - first[1] - first[3]) / 2
    narrower = min(first[2] - first[0], second[2] - second[0])
    is_clear = right >= MARGIN * size and right > down and first[2] - second[0] < narrower / 4
    return True if is_clear else None


def is_related(first: SceneObject, word: str, second: SceneObject, size: int) -> bool | None:
    """Whether an object is left of, right of, above or below another one, see `is_left_of`."""
    boxes = first.box, second.box
    if word in ("above", "below"):
        boxes = tuple((y0, x0, y1, x1) for x0, y0, x1, y1 in boxes)
    if word in ("right of", "below"):
        boxes = boxes[::-1]
    return is_left_of(*boxes, size)


def find_related(
    candidates: list[SceneObject], word: str, other: SceneObject, size: int
) -> SceneObject | None:
    """The one object that is left of (or ...) another one; None if not exactly one clearly is."""
    states = [
        (is_related(item, word, other, size), item) for item in candidates if item is not other
    ]
    found = [item for state, item in states if state]
    return found[0] if len(found) == 1 and all(s is not None for s, _ in states) else None


def find_extreme(candidates: list[SceneObject], word: str, size: int) -> SceneObject | None:
    """The leftmost (or ...) object, by its centre and its edge; None if that is not clear."""
    axis, sign = {
        "leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)
    }[word]  # fmt: skip

    def centre(item: SceneObject) -> float:
        return sign * (item.box[axis] + item.box[axis + 2]) / 2

    def edge(item: SceneObject) -> int:
        return sign * item.box[axis if sign > 0 else axis + 2]

    first, *others = sorted(candidates, key=centre)
    is_clear = all(
        centre(item) - centre(first) >= MARGIN * size and edge(item) > edge(first)
        for item in others
    )
    return first if is_clear else None


def find_largest(candidates: list[SceneObject], smallest: bool = False) -> SceneObject | None:
    """The largest object, complete and as it is seen; None if that is not clear."""

    def sizes(item: SceneObject) -> tuple[float, ...]:
        x0, y0, x1, y1 = item.box
        values = (item.area, item.pixels, (x1 - x0) * (y1 - y0))
        return tuple(1 / value if smallest else value for value in values)

    first, *others = sorted(candidates, key=sizes, reverse=True)
    is_clear = all(
        large >= RATIO * small
        for item in others
        for large, small in zip(sizes(first), sizes(item), strict=True)
    )
    return first if is_clear else None


def load_drawings(archives: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
    """Drawings of each split.

    Args:
        archives: package -> archive.

    Returns:
        split -> name -> SVG documents, in a fixed order.
    """
    emoji, drawn = emoji_sets.load(archives)
    code_of = {entry.name: code for code, entry in emoji.items()}
    return {
        split: {
            name: [
                drawn[artist][code_of[official]]
                for artist in artists
                if code_of[official] in drawn[artist]
            ]
            for names in KINDS.values()
            for name, official in names.items()
        }
        for split, artists in ARTISTS.items()
    }


def choose_names(names: list[str], rng: random.Random) -> list[str]:
    """Names of the objects of a scene: some once, some twice or three times."""
    count, chosen = rng.randint(*OBJECTS), list[str]()
    for name in rng.sample(names, min(count, len(names))):
        chosen += [name] * rng.choice((1, 1, 1, 2, 2, 3))
    chosen = chosen[:count]
    rng.shuffle(chosen)
    return chosen


def arrange(
    drawings: dict[str, list[str]], photographs: tuple[str, ...], size: int, rng: random.Random
) -> tuple[Image.Image, Scene]:
    """One scene. An object that finds no place is left out.

    At least `MIN_VISIBLE` of each drawing is visible, and drawings of one name do not overlap.

    Args:
        drawings: name -> SVG documents.
        photographs: names of backgrounds.
        size: side in pixels.
        rng: chooses everything.
    """
    image = emoji_scenes.crop_photograph(photographs, size, rng)
    names, masks, areas = list[str](), list[np.ndarray](), list[int]()
    for name in choose_names(sorted(drawings), rng):
        width = round(size * rng.uniform(*WIDTHS))
        drawing = emoji_scenes.pose(rng.choice(drawings[name]), width, rng)
        for _ in range(20):
            # At most a tenth of a side may be outside the image.
            corner = tuple(
                rng.randint(-length // 10, size - length + length // 10) for length in drawing.size
            )
            covered, area = emoji_scenes.covered_pixels(drawing, corner, size)
            mask = np.array(covered) > 0
            left = [other & ~mask for other in masks]
            is_visible = all(
                part.sum() >= MIN_VISIBLE * complete
                for part, complete in zip([*left, mask], [*areas, area], strict=True)
            )
            is_apart = not any(
                (other & mask).any()
                for other, label in zip(masks, names, strict=True)
                if label == name
            )
            if is_visible and is_apart:
                image.paste(drawing, corner, drawing.getchannel("A"))
                names, masks, areas = [*names, name], [*left, mask], [*areas, area]
                break
    objects = [
        SceneObject(name, box_of(mask), int(mask.sum()), area)
        for name, mask, area in zip(names, masks, areas, strict=True)
    ]
    return image, Scene(size, objects)


def box_of(mask: np.ndarray) -> Box:
    """The smallest box around a mask.

    Args:
        mask: (H, W) booleans, at least one of them True.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def image_name(split: str, index: int) -> str:
    """Path of an image in the data set."""
    return f"{split}/{index:05}.png"


def make_scene(out: Path, split: str, index: int, size: int, seed: int) -> Scene:
    """Write image `index` of a split, unless it exists, and return what it shows."""
    drawings, _, size, rng = emoji_scenes.ingredients(split, index, size, seed)
    image, scene = arrange(drawings, PHOTOGRAPHS[split], size, rng)
    path = out / image_name(split, index)
    if not path.exists():
        emoji_scenes.save(image, path, compress_level=1)  # 3 times as fast, 4 % larger
    return scene


def check(out: Path, split: str, count: int, size: int) -> None:
    """Open all images of a split; one that is not as expected is removed, to be drawn again."""
    for index in range(count):
        path = out / image_name(split, index)
        try:
            with Image.open(path) as image:
                image.load()
                actual: object = (image.mode, image.size)
        except OSError as error:
            actual = error
        if actual != ("RGB", (size, size)):
            path.unlink(missing_ok=True)
            raise DataError(f"{path} is {actual}, expected RGB {(size, size)}. Run again.")


def write_objects(path: Path, split: str, scenes: list[Scene]) -> None:
    """Write what is on each image, one JSON object per line."""
    with atomic_file(path, concurrent=True) as temporary:
        temporary.write_text(
            "".join(
                json.dumps(
                    {
                        "image": image_name(split, index),
                        "objects": [
                            {"name": o.name, "box": o.box, "visible": round(o.visible, 3)}
                            for o in scene.objects
                        ],
                    }
                )
                + "\n"
                for index, scene in enumerate(scenes)
            )
        )


def draw(args: argparse.Namespace, facts: dict[str, Any]) -> dict[str, list[Scene]]:
    """Draw all scenes of a data set and list their objects.

    Args:
        args: see `emoji_scenes.scene_options`.
        facts: what its files depend on besides the options.

    Returns:
        split -> scenes. The images and objects_{split}.jsonl are in OUT.

    Raises:
        DataError: if an option is not usable, or OUT has other data.
    """
    for name, least in (("train", 1), ("val", 1), ("size", 48), ("jobs", 1)):
        if getattr(args, name) < least:
            raise DataError(f"--{name} is {getattr(args, name)}, expected {least} or more.")
    counts = {"train": args.train, "val": args.val}
    facts = {**facts, **counts, "names": KINDS}
    archives = emoji_scenes.open_folder(args, list(counts), facts, PHOTOGRAPHS)
    scenes = emoji_scenes.draw_all(args, partial(load_drawings, archives), make_scene)
    for split, made in scenes.items():
        check(args.out, split, counts[split], args.size)
        write_objects(args.out / f"objects_{split}.jsonl", split, made)
    return scenes
