"""Label maps of COCO-Stuff and Cityscapes get the numbers of mmsegmentation."""

import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import label_maps as tool

STUFF = "annotations/train2017/000000000009.png"
STREET = "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


def run(monkeypatch, name, folder):
    monkeypatch.setattr("sys.argv", ["label_maps", name, str(folder), "--jobs", "1"])
    return tool.main()


def test_numbers_are_those_of_mmsegmentation():
    datasets = pytest.importorskip("mmseg.datasets")
    stuff, street = (tool.SETS[name].table() for name in ("coco_stuff164k", "cityscapes"))
    assert len(tool.SETS["coco_stuff164k"].classes) == 171
    assert len(datasets.COCOStuffDataset.METAINFO["classes"]) == 171
    assert len(tool.SETS["cityscapes"].classes) == 19
    # Values of some classes, by their official names.
    names = datasets.COCOStuffDataset.METAINFO["classes"]
    for value, name in ((0, "person"), (12, "stop sign"), (89, "toothbrush"), (181, "wood")):
        assert names[stuff[value]] == name
    names = datasets.CityscapesDataset.METAINFO["classes"]
    for value, name in ((7, "road"), (11, "building"), (26, "car"), (28, "bus"), (33, "bicycle")):
        assert names[street[value]] == name


@pytest.mark.parametrize(
    ("name", "path", "values", "numbers", "made"),
    [
        ("coco_stuff164k", STUFF, [[0, 11, 12], [24, 181, 255]], [[0, 255, 11], [23, 170, 255]],
         "000000000009_labelTrainIds.png"),
        ("cityscapes", STREET, [[0, 7, 8], [16, 33, 255]], [[255, 0, 1], [255, 18, 255]],
         "aachen_000000_000019_gtFine_labelTrainIds.png"),
    ],
)  # fmt: skip
def test_label_maps_are_numbered_beside_the_official_ones(
    name, path, values, numbers, made, tmp_path, monkeypatch, capsys
):
    save(tmp_path / path, values)
    for _ in range(2):  # the second time there is nothing to do
        assert run(monkeypatch, name, tmp_path) == 0
        out, err = capsys.readouterr()
        assert "1 label maps" in out
        assert "warning: 1 label maps, published are" in err
    target = (tmp_path / path).with_name(made)
    assert np.array(Image.open(target)).tolist() == numbers
    assert len(list(target.parent.iterdir())) == 2


def test_existing_maps_are_kept(tmp_path, monkeypatch):
    save(tmp_path / STUFF, [[0]])
    made = (tmp_path / STUFF).with_name("000000000009_labelTrainIds.png")
    made.write_text("kept")
    assert run(monkeypatch, "coco_stuff164k", tmp_path) == 0
    assert made.read_text() == "kept"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([[182]], "has the value 182, which is no label"),
        ([[[0, 0, 0]]], "is RGB, expected one channel"),
        (b"cut off", "cannot be read"),
    ],
)
def test_faults_are_named_after_all_others_are_done(
    content, problem, tmp_path, monkeypatch, capsys
):
    bad, good = tmp_path / STUFF, tmp_path / "annotations/val2017/1.png"
    save(good, [[1]])
    if isinstance(content, bytes):
        bad.parent.mkdir(parents=True)
        bad.write_bytes(content)
    else:
        save(bad, content)
    assert run(monkeypatch, "coco_stuff164k", tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 1 of 2 label maps:")
    assert problem in error
    assert good.with_name("1_labelTrainIds.png").is_file()
    assert not bad.with_name("000000000009_labelTrainIds.png").exists()


def test_an_empty_folder_is_explained(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "cityscapes", tmp_path) == 2
    assert "Unpack the official files there first" in capsys.readouterr().err
