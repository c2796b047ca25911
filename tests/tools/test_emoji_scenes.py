"""Scenes of the demo data, drawn from small SVGs: nothing is downloaded."""

import hashlib
import random
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import emoji_scenes
from downloads import DataError

SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
    '<rect width="10" height="10" fill="#ff0000"/></svg>'
)


def test_label_covers_what_was_drawn_and_nothing_else():
    image, labels = emoji_scenes.compose({3: [SQUARE]}, ("moon.png",), 128, random.Random(1))
    pixels, labels = np.array(image).astype(int), np.array(labels)
    assert set(np.unique(labels)) == {0, 3}
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    assert (red == (labels == 3)).mean() > 0.97


def test_the_same_seed_gives_the_same_scene_and_another_another():
    def scene(seed):
        images = emoji_scenes.compose(
            {1: [SQUARE], 2: [SQUARE]}, ("coffee.png", "moon.png"), 64, random.Random(seed)
        )
        return [np.array(image) for image in images]

    for first, second in zip(scene("0 train 1"), scene("0 train 1"), strict=True):
        assert np.array_equal(first, second)
    assert not np.array_equal(scene("0 train 1")[0], scene("0 train 2")[0])


def test_a_seed_gives_the_scenes_that_it_has_always_given():
    """Demos are compared by their scenes: a change of these bytes is a change of figures."""
    images = emoji_scenes.compose(
        {1: [SQUARE], 2: [SQUARE]}, ("coffee.png", "moon.png"), 64, random.Random("0 train 1")
    )
    assert [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in images] == [
        "9aeb4088c45877dc", "76e0cc2cf42d907f",
    ]  # fmt: skip


def test_splits_have_no_photograph_in_common():
    photographs = emoji_scenes.PHOTOGRAPHS
    assert not set(photographs["train"]) & set(photographs["val"])
    for names in photographs.values():
        for name in names:
            assert emoji_scenes.photograph(name).mode == "RGB"


def test_classes_and_palette_are_those_of_the_config():
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / "configs/_base_/datasets/emoji_scenes_128.py")
    assert cfg.metainfo.classes == emoji_scenes.CLASSES
    assert [tuple(c) for c in cfg.metainfo.palette] == list(emoji_scenes.PALETTE)


def test_existing_scenes_are_kept_and_bad_ones_found(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_scenes, "_DRAWINGS", {"val": {i: [SQUARE] for i in range(1, 9)}})
    for kind in ("img_dir", "ann_dir"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for index in range(30):
        emoji_scenes.make_scene(tmp_path, "val", index, 64, 0)
    emoji_scenes.check(tmp_path, {"val": 30}, 64)
    label = tmp_path / "ann_dir/val/00003.png"
    before = label.stat().st_mtime_ns
    emoji_scenes.make_scene(tmp_path, "val", 3, 64, 0)
    assert label.stat().st_mtime_ns == before
    Image.new("L", (32, 32)).save(label)
    with pytest.raises(DataError, match="00003"):
        emoji_scenes.check(tmp_path, {"val": 30}, 64)
