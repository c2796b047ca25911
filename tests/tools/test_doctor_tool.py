"""The command line of the doctor: what it prints, writes and returns."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, SEGMENTATION


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the doctor; its exit status, what it printed and what it complained of."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["doctor.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools/doctor.py"), run_name="__main__")
        return end.value.code, *capfd.readouterr()

    return run


def test_a_healthy_set_ends_with_0(run, seg_data):
    status, out, _ = run(SEGMENTATION, "--data-root", seg_data)
    assert status == 0
    assert "errors: 0" in out
    assert "train: 8 images" in out


def test_weights_and_tokenizers_that_training_would_miss_are_errors(run, seg_data):
    status, out, _ = run(SEGMENTATION, "--data-root", seg_data, "--checkpoint", "none.pth")
    assert status == 1
    assert "[weights-missing]" in out
    assert "none.pth" in out


def test_names_of_files_do_not_reach_the_terminal_as_codes(run, seg_data, tmp_path):
    shutil.copytree(seg_data, tmp_path / "data")
    (tmp_path / "data/img_dir/train/0.png").rename(tmp_path / "data/img_dir/train/\x1b[31m.png")
    (tmp_path / "data/ann_dir/train/0.png").rename(tmp_path / "data/ann_dir/train/\udce9.png")
    status, out, _ = run(SEGMENTATION, "--data-root", tmp_path / "data")
    assert status == 1
    assert "image-without-label" in out
    assert "\x1b" not in out


def test_an_error_ends_with_1_and_is_written_for_programs(run, seg_data, tmp_path):
    shutil.copytree(seg_data, tmp_path / "data")
    for path in (tmp_path / "data/ann_dir/train").iterdir():
        labels = np.array(Image.open(path))
        labels[0, 0] = 77
        Image.fromarray(labels).save(path)
    found = tmp_path / "new/found.json"
    status, out, _ = run(
        SEGMENTATION, "--data-root", tmp_path / "data", "--json", found, "--limit", 4
    )
    assert status == 1
    assert "[label-outside-classes] train" in out
    written = json.loads(found.read_text())
    assert written["counts"]["error"] == 1
    error = written["findings"][0]
    assert (error["level"], error["code"], error["split"]) == (
        "error", "label-outside-classes", "train"
    )  # fmt: skip
    assert len(error["where"]) == error["numbers"]["count"] == 4
    assert written["splits"][0]["bins"][0]["name"] == "background"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["none.py"], "none.py does not exist"),
        ([ROOT / "README.md"], "cannot be read"),
        ([SEGMENTATION, "--cfg-options", "train_dataloader.dataset.img_sufix=.png"], "img_suffix"),
        ([SEGMENTATION, "--limit", 0], "--limit 0"),
        ([ROOT / "configs/_base_/runtime.py"], "no data"),
    ],
)
def test_a_config_that_cannot_be_used_ends_with_2(run, args, says):
    status, _, complaint = run(*args)
    assert status == 2
    assert says in complaint
