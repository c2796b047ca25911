"""One file never ends a run: files that cannot be read, in training, validation, tests and drawings."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.coco_data import make_coco
from tests.conftest import ROOT, SEGMENTATION
from tests.journeys import test_detection, test_segmentation
from tests.processes import run_tool

STEPS = ("train_cfg.max_iters=4", "train_cfg.val_interval=4")


def cut(path, size=60):
    path.write_bytes(path.read_bytes()[:size])


def scores_of(done, name):
    return re.findall(rf"{name}: +([0-9.]+)", done.stdout)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.py"
    path.write_text(test_segmentation.SMALL_RECIPE.format(base=SEGMENTATION))
    return path


@pytest.fixture
def data(seg_data, tmp_path):
    """Eight images for training and four for validation."""
    return shutil.copytree(seg_data, tmp_path / "data")


def test_segmentation_goes_on_without_what_cannot_be_read(recipe, data, tmp_path):
    cut(data / "img_dir/train/1.png")
    cut(data / "img_dir/val/2.png")
    for name in ("img_dir/train/5.png", "ann_dir/train/5.png"):  # of one row: as good as any
        Image.fromarray(np.array(Image.open(data / name))[50:51]).save(data / name)
    work_dir = tmp_path / "work"
    command = (recipe, "--data-root", data, "--work-dir", work_dir)
    done = run_tool("train.py", *command, "--cfg-options", *STEPS)
    assert "broken sample 1 (" in done.stdout
    assert "img_dir/train/1.png cannot be decoded" in done.stdout
    assert "train/5.png" not in done.stdout
    assert "1 broken samples were replaced: 1 image" in done.stdout
    assert (
        "1 of 4 samples left out of the scores of val, because they cannot be read" in done.stdout
    )
    assert re.search(r"mIoU: .*left_out: 1 ", done.stdout)
    # The scores are those of the other images.
    (data / "img_dir/val/2.png").unlink()
    (data / "ann_dir/val/2.png").unlink()
    others = run_tool("test.py", recipe, work_dir, "--data-root", data, "--work-dir", tmp_path)
    assert scores_of(others, "mIoU") == scores_of(done, "mIoU")[:1]
    assert "left out" not in others.stdout


def test_test_and_drawings_go_on_too(recipe, data, tmp_path):
    (tmp_path / "weights").mkdir()
    run_tool("train.py", recipe, "--data-root", data, "--work-dir", tmp_path / "weights",
             "--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=9")  # fmt: skip
    labels = data / "ann_dir/val/0.png"
    Image.fromarray(np.array(Image.open(labels))[:-3]).save(labels)
    options = ("--data-root", data)
    done = run_tool(
        "test.py", recipe, tmp_path / "weights", *options, "--tta", "--work-dir", tmp_path / "test"
    )
    assert "1 of 4 samples left out of the scores of test" in done.stdout
    assert "ann_dir/val/0.png is 150 x 87 pixels, its image 150 x 90" in done.stdout
    assert scores_of(done, "left_out") == ["1"]
    drawn = tmp_path / "drawn.png"
    done = run_tool(
        "show_predictions.py", recipe, tmp_path / "weights", *options, "--num", 2, "--out", drawn
    )
    assert "left out: " in done.stderr
    assert drawn.is_file()


def test_too_many_end_the_run_with_one_line(recipe, data, tmp_path):
    for i in range(5):
        cut(data / f"img_dir/train/{i}.png")
    done = run_tool(
        "train.py", recipe, "--data-root", data, "--work-dir", tmp_path / "work",
        "--cfg-options", *STEPS, "train_dataloader.num_workers=1", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "samples seen are broken (2 image), more than max_broken=0.05 allows" in line
    assert "Traceback" not in done.stderr


def test_one_class_with_a_sigmoid_learns(recipe, data, tmp_path):
    for path in (data / "ann_dir").rglob("*.png"):
        Image.fromarray((np.array(Image.open(path)) > 4).astype(np.uint8)).save(path)
    head = "num_classes=2, out_channels=1, threshold=0.5, loss_decode=dict(use_sigmoid=True)"
    binary = tmp_path / "binary.py"
    metainfo = "metainfo=dict(_delete_=True, classes=('background', 'thing'))"
    binary.write_text(f"""
_base_ = ["{recipe}"]
model = dict(decode_head=dict({head}), auxiliary_head=dict({head}))
train_dataloader = dict(dataset=dict({metainfo}))
val_dataloader = dict(dataset=dict({metainfo}))
test_dataloader = val_dataloader
""")
    command = ("--data-root", data, "--work-dir", tmp_path / "work")
    done = run_tool("train.py", binary, *command, "--cfg-options", *STEPS)
    losses = test_segmentation.losses(done)
    assert len(losses) == 4
    assert min(losses) > 0
    assert float(scores_of(done, "mIoU")[0]) < 100
    one = ("model.decode_head.num_classes=1", "model.auxiliary_head.num_classes=1")
    options = "train", "val", "test"
    classes = [f"{name}_dataloader.dataset.metainfo.classes=thing," for name in options]
    done = run_tool("train.py", recipe, *command, "--cfg-options", *one, *classes, check=False)
    assert done.returncode == 2
    assert "[one-class] config: a softmax over one class is always 1" in done.stderr


@pytest.mark.ops
def test_detection_goes_on_without_what_cannot_be_read(tmp_path):
    data = make_coco(tmp_path / "data")
    path = tmp_path / "boxes.py"
    facts = dict(
        root=ROOT, classes=test_detection.CLASSES, palette=list(test_detection.COLOURS),
        base=test_detection.BASES["boxes"], heads=test_detection.HEADS["boxes"],
    )  # fmt: skip
    path.write_text(test_detection.SMALL_RECIPE.format(**facts))
    (data / "train/1.png").write_bytes(b"")
    cut(data / "val/2.png")
    done = run_tool(
        "train.py", path, "--data-root", data, "--work-dir", tmp_path / "work",
        "--cfg-options", *STEPS,
    )  # fmt: skip
    assert "train/1.png is empty (0 bytes)" in done.stdout
    assert "1 of 4 samples left out of the scores of val" in done.stdout
    assert "coco/bbox_mAP" in done.stdout
