"""Converters of scenes run on coloured discs: nothing is downloaded."""

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import emoji_scenes
import object_scenes

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'


def make_builder(patch: pytest.MonkeyPatch, converter, folder: Path) -> Callable[..., Path]:
    """A function that runs a converter with options, in a folder of this name."""
    colours = [(r, g, b) for r in (0, 80, 160, 240) for g in (0, 120, 240) for b in (0, 120, 240)]
    drawings = {
        name: [f'{SVG}<circle cx="5" cy="5" r="5" fill="rgb{colour}"/></svg>']
        for name, colour in zip(object_scenes.KIND_OF, colours, strict=False)
    }
    patch.setattr(emoji_scenes, "_DRAWINGS", {"train": drawings, "val": drawings})
    patch.setattr(emoji_scenes, "fetch_npm", lambda packages, folder: {})
    patch.setattr(object_scenes, "load_drawings", lambda archives: {})

    def run(name: str = "out", **options) -> Path:
        args = {"train": 400, "val": 200, "size": 64, "seed": 0, "jobs": 2, "downloads": None}
        converter.build(argparse.Namespace(out=folder / name, **{**args, **options}))
        return folder / name

    return run


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table of ours."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def read_objects(out: Path, split: str) -> dict[str, list[dict]]:
    """Image -> its objects."""
    lines = (out / f"objects_{split}.jsonl").read_text().splitlines()
    return {entry["image"]: entry["objects"] for entry in map(json.loads, lines)}


def centre(box: list[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


# Word -> which coordinate of the centre is smaller, and of which of the two objects.
SIDES = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}


def is_beyond(first: list[float], word: str, second: list[float]) -> bool:
    """Whether a centre is at all left of (or ...) another one."""
    axis, sign = SIDES[word]
    return sign * (centre(second)[axis] - centre(first)[axis]) > 0


def is_clearly(first: list[float], word: str, second: list[float]) -> bool:
    """The same, for who wants to see it: in a cone of 90 degrees, by a twentieth of the image."""
    axis, sign = SIDES[word]
    along = sign * (centre(second)[axis] - centre(first)[axis])
    across = abs(centre(second)[1 - axis] - centre(first)[1 - axis])
    return along >= 64 / 20 and along >= across
