"""Scenes of named drawings, from small SVGs: what is where, and what can be said of it."""

import random
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import emoji_scenes
import emoji_sets
import object_scenes
from object_scenes import Scene, SceneObject

COLOURS = {"bus": (255, 0, 0), "dog": (0, 255, 0), "banana": (0, 0, 255)}


def disc(colour):
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
        f'<circle cx="5" cy="5" r="5" fill="rgb{colour}"/></svg>'
    )


@pytest.fixture
def grey(monkeypatch):
    """Backgrounds without colours."""
    monkeypatch.setattr(
        emoji_scenes, "photograph", lambda name: Image.new("RGB", (90, 70), (90, 90, 90))
    )


def item(name, *box, visible=1.0):
    area = (box[2] - box[0]) * (box[3] - box[1])
    return SceneObject(name, box, round(visible * area), area)


@pytest.mark.usefixtures("grey")
def test_boxes_are_those_of_the_pixels_that_can_be_seen():
    drawings = {name: [disc(colour)] for name, colour in COLOURS.items()}
    seen = 0
    for seed in range(40):
        image, scene = object_scenes.arrange(drawings, ("any",), 128, random.Random(seed))
        pixels = np.array(image).astype(int)
        for name, colour in COLOURS.items():
            same = scene.named(name)
            near = np.abs(pixels - colour).max(-1) < 80
            if not same:
                assert near.sum() < 20
                continue
            found = np.array(object_scenes.box_of(near))
            boxes = np.array([o.box for o in same])
            around = np.array([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)])
            assert np.abs(found - around).max() <= 3
            assert near.sum() == pytest.approx(sum(o.pixels for o in same), rel=0.12, abs=30)
            seen += 1
        assert all(object_scenes.MIN_VISIBLE <= o.visible <= 1 for o in scene.objects)
    assert seen > 60


@pytest.mark.usefixtures("grey")
def test_the_same_seed_gives_the_same_scene():
    drawings = {name: [disc(colour)] for name, colour in COLOURS.items()}
    scenes = [
        object_scenes.arrange(drawings, ("any",), 64, random.Random(seed)) for seed in (1, 1, 2)
    ]
    assert np.array_equal(scenes[0][0], scenes[1][0])
    assert scenes[0][1] == scenes[1][1] != scenes[2][1]


def test_relations_turn_with_the_image():
    rng = random.Random(0)
    words = {"left of": "above", "above": "right of", "right of": "below", "below": "left of"}
    states = set()
    for _ in range(2000):
        boxes = []
        for _ in range(2):
            x, y = rng.randrange(80), rng.randrange(80)
            boxes.append(item("dog", x, y, x + rng.randint(5, 20), y + rng.randint(5, 20)))
        # Clockwise by a quarter: the left side becomes the upper one.
        turned = [item("dog", 100 - o.box[3], o.box[0], 100 - o.box[1], o.box[2]) for o in boxes]
        for word, after in words.items():
            state = object_scenes.is_related(boxes[0], word, boxes[1], 100)
            assert state == object_scenes.is_related(turned[0], after, turned[1], 100)
            states.add(state)
        # At most one relation holds, and never both ways.
        held = [w for w in words if object_scenes.is_related(boxes[0], w, boxes[1], 100)]
        assert len(held) <= 1
        for word in held:
            assert object_scenes.is_related(boxes[1], word, boxes[0], 100) is False
    assert states == {True, False, None}


def test_what_is_not_clear_is_not_said():
    left, right = item("dog", 10, 40, 30, 60), item("dog", 60, 40, 80, 60)
    between = item("dog", 14, 10, 34, 30)  # nearly as far to the left
    find = object_scenes.find_extreme
    assert find([right, left], "leftmost", 100) is left
    assert find([right, left, between], "leftmost", 100) is None
    assert find([right, left, between], "topmost", 100) is between
    assert find([right, left], "bottommost", 100) is None
    bus = item("bus", 40, 40, 58, 60)
    assert object_scenes.find_related([left, right], "left of", bus, 100) is left
    assert object_scenes.find_related([left, right, between], "left of", bus, 100) is None
    large, hidden = item("dog", 0, 0, 40, 40), item("dog", 50, 50, 95, 95, visible=0.5)
    assert object_scenes.find_largest([left, large]) is large
    assert object_scenes.find_largest([left, large], smallest=True) is left
    assert object_scenes.find_largest([left, large, hidden]) is None


def test_splits_share_no_artist_and_no_photograph_and_none_shows_an_object():
    photographs = object_scenes.PHOTOGRAPHS
    assert not set(photographs["train"]) & set(photographs["val"])
    assert not set(emoji_sets.ARTISTS["train"]) & set(emoji_sets.ARTISTS["val"])
    for split, names in photographs.items():
        assert names
        assert set(names) <= set(emoji_scenes.PHOTOGRAPHS[split])
        assert not set(names) & set(object_scenes.SHOWS_AN_OBJECT)


def test_words_for_one_and_for_several():
    assert [object_scenes.plural(noun) for noun in ("bus", "dog", "octopus", "peach")] == [
        "buses", "dogs", "octopuses", "peaches",
    ]  # fmt: skip
    assert object_scenes.plural("strawberry") == "strawberries"
    assert object_scenes.with_article("octopus") == "an octopus"
    assert object_scenes.with_article("red apple") == "a red apple"


def test_kinds_and_names_are_distinct_words():
    names = list(object_scenes.KIND_OF)
    assert len(names) == sum(map(len, object_scenes.KINDS.values()))
    assert not set(names) & set(object_scenes.KINDS)
    scene = Scene(100, [item("dog", 0, 0, 9, 9), item("bus", 0, 0, 9, 9)])
    assert scene.named("animal") == scene.named("dog") == scene.objects[:1]
