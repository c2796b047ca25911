"""Boxes and masks of the demo data, drawn from small SVGs: nothing is downloaded."""

import argparse
import json
import random
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
rle = pytest.importorskip("pycocotools.mask", reason="needs pycocotools: make env-full")
import emoji_objects
import emoji_scenes
from downloads import DataError
from emoji_scenes import Drawn

SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
    '<rect width="10" height="10" fill="#ff0000"/></svg>'
)


def rectangle(label, x0, y0, x1, y1, area=None):
    covered = np.zeros((40, 40), np.uint8)
    covered[y0:y1, x0:x1] = 255
    return Drawn(label, Image.fromarray(covered), area or (x1 - x0) * (y1 - y0))


def masks(instances):
    return [rle.decode(i["segmentation"]).astype(bool) for i in instances]


def test_a_mask_is_what_later_drawings_leave_and_the_box_is_tight():
    instances, left_out = emoji_objects.find_instances(
        [rectangle(3, 0, 0, 20, 10), rectangle(5, 12, 2, 30, 30)]
    )
    assert left_out == 0
    assert [i["category_id"] for i in instances] == [3, 5]
    assert [i["bbox"] for i in instances] == [[0, 0, 20, 10], [12, 2, 18, 28]]
    below, above = masks(instances)
    expected = np.zeros((40, 40), bool)
    expected[0:10, 0:20] = True
    expected[2:10, 12:20] = False
    assert np.array_equal(below, expected)
    assert above.sum() == instances[1]["area"] == 18 * 28


def test_what_can_hardly_be_seen_is_no_instance_but_hides_what_is_below():
    instances, left_out = emoji_objects.find_instances(
        [
            rectangle(1, 0, 0, 30, 30),
            rectangle(2, 0, 0, 10, 10),  # all but hidden by the next one
            rectangle(4, 0, 1, 20, 20),
            rectangle(7, 35, 35, 40, 40, area=400),  # most of it is outside the image
            rectangle(8, 30, 0, 33, 3),  # tiny
        ]
    )
    assert [i["category_id"] for i in instances] == [1, 4]
    assert left_out == 3
    assert not masks(instances)[0][0, :10].any()


def test_masks_of_a_scene_are_its_label_map():
    drawings = {label: [SQUARE] for label in range(1, 9)}
    for seed in range(20):
        ingredients = drawings, ("moon.png", "coins.png"), 96
        image, labels = emoji_scenes.compose(*ingredients, random.Random(seed))
        same, drawn = emoji_scenes.arrange(*ingredients, random.Random(seed))
        assert np.array_equal(np.array(image), np.array(same))
        instances, left_out = emoji_objects.find_instances(drawn)
        found = np.zeros((96, 96), np.uint8)
        for instance, mask in zip(instances, masks(instances), strict=True):
            assert not found[mask].any()
            found[mask] = instance["category_id"]
        different = found != np.array(labels)
        assert not different.any() or left_out
        assert not found[different].any()


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Run the converter on squares, in this process."""
    drawings = {i: [SQUARE] for i in range(1, 9)}
    monkeypatch.setattr(emoji_scenes, "_DRAWINGS", {"train": drawings, "val": drawings})
    monkeypatch.setattr(emoji_scenes, "fetch_npm", lambda packages, folder: {})
    monkeypatch.setattr(emoji_scenes, "load_drawings", lambda archives, per_group: {})

    def run(name="out", **options):
        args = dict(train=14, val=12, size=64, per_group=3, seed=0, jobs=1, downloads=None)
        emoji_objects.build(argparse.Namespace(out=tmp_path / name, **{**args, **options}))
        return tmp_path / name

    return run


def test_the_same_seed_gives_the_same_files_and_a_run_goes_on(build, capsys):
    first, second = build("a"), build("b")
    files = [p.relative_to(first) for p in sorted(first.rglob("*.*"))]
    assert len(files) == 14 + 12 + 2 + 1
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert "left out" in capsys.readouterr().out
    written = (first / "val/00003.png").stat().st_mtime_ns
    build("a")
    assert (first / "val/00003.png").stat().st_mtime_ns == written
    (first / "val/00003.png").unlink()
    build("a")
    assert (first / "val/00003.png").read_bytes() == (second / "val/00003.png").read_bytes()
    with pytest.raises(DataError, match="other options"):
        build("a", seed=1)


@pytest.mark.parametrize("key", ["area", "bbox", "segmentation"])
def test_annotations_that_do_not_fit_their_masks_are_found(build, key):
    out = build()
    path = out / "annotations/instances_val.json"
    data = json.loads(path.read_text())
    first, second = data["annotations"][:2]
    first[key] = second[key]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"instances_val\.json: annotation 1 "):
        build()


def test_the_file_is_read_by_coco_and_has_the_classes_of_the_config(build):
    from mmengine.config import Config
    from pycocotools.coco import COCO

    coco = COCO(build() / "annotations/instances_train.json")
    cfg = Config.fromfile(ROOT / "configs/_base_/datasets/emoji_objects_160.py")
    assert tuple(c["name"] for c in coco.loadCats(coco.getCatIds())) == cfg.metainfo.classes
    assert [tuple(c) for c in cfg.metainfo.palette] == list(emoji_objects.PALETTE)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]
