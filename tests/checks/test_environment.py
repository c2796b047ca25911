"""Without compiled operators everything that can work does, and what cannot names the command."""

import sys

import pytest
from mmengine.config import Config

from mmonepeace import checks
from mmonepeace.checks import CheckError
from tests.conftest import ROOT
from tests.processes import run_tool

DETECTION = ROOT / "configs/tiny/resnet18_faster-rcnn_bccd.py"


@pytest.fixture
def without_operators(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)


@pytest.mark.usefixtures("without_operators")
def test_a_detector_names_the_commands_in_one_line():
    with pytest.raises(CheckError) as error:
        checks.read_config(DETECTION)
    for text in ("FasterRCNN", "make env-full", "MMCV_WITH_OPS=1", "--no-binary onedl-mmcv"):
        assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("without_operators")
@pytest.mark.parametrize(
    "model",
    [
        dict(type="EncoderDecoder", decode_head=dict(type="Mask2FormerHead")),
        dict(type="EncoderDecoder", decode_head=[dict(type="mmseg.Mask2FormerHead")]),
        dict(type="EncoderDecoder", decode_head=dict(loss=[dict(type="mmdet.DiceLoss")])),
    ],
)
def test_segmentors_with_parts_of_mmdet_need_them_too(model):
    with pytest.raises(CheckError, match="make env-full"):
        checks.check_operators(Config(dict(default_scope="mmseg", model=model)))


@pytest.mark.usefixtures("without_operators")
def test_other_recipes_go_without():
    for path in sorted((ROOT / "configs").rglob("onepeace*upernet*.py")):
        if "_base_" not in path.parts:
            checks.read_config(path)
    checks.read_config(ROOT / "configs/tiny/onepeace-tiny_vl_emoji-64.py")


def test_a_missing_mmdetection_is_named(monkeypatch):
    find_spec = checks.environment.find_spec
    monkeypatch.setattr(
        checks.environment, "find_spec", lambda name: None if name == "mmdet" else find_spec(name)
    )
    with pytest.raises(CheckError, match=r"needs mmdetection.*pip install onedl-mmdetection"):
        checks.read_config(DETECTION)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(checks.environment, "find_spec", lambda name: None)
    with pytest.raises(CheckError, match=r"mmpretrain.*env-full.*pip install onedl-mmpretrain"):
        checks.read_config(ROOT / "configs/tiny/onepeace-tiny_emoji-groups-64.py")


@pytest.mark.ops
def test_with_operators_a_detector_is_read():
    assert checks.read_config(DETECTION).model.type == "FasterRCNN"


def forget_operators():
    """In a process of its own."""
    sys.modules |= {"mmcv.ops": None, "mmcv._ext": None}


@pytest.mark.parametrize("tool", ["train.py", "test.py", "show_predictions.py", "doctor.py"])
def test_tools_end_with_that_line(tool, tmp_path, monkeypatch):
    arguments = [DETECTION, *(["x.pth"] if tool in ("test.py", "show_predictions.py") else [])]
    monkeypatch.chdir(tmp_path)
    done = run_tool(tool, *arguments, prepare=forget_operators, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: FasterRCNN needs ")
    assert "make env-full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/no.py", ""),
        ("/onepeace_upernet_ade20k.py", " Did you mean onepeace_upernet_ade20k?"),
        ("onepeace-tiny_upernet_emoji", " Did you mean onepeace-tiny_upernet_emoji-128?"),
        ("configs/emoji_pairs.py", ""),
    ],
)
def test_a_missing_config_is_named(path, hint):
    with pytest.raises(CheckError) as error:
        checks.read_config(path)
    assert str(error.value) == f"config {path} does not exist.{hint}"


@pytest.mark.parametrize(
    "path",
    [
        "onepeace-tiny_vl_emoji-64", "onepeace-tiny_vl_emoji-64.py",
        "configs/tiny/onepeace-tiny_vl_emoji-64.py",
    ],
)  # fmt: skip
def test_recipes_of_the_package_are_found_from_anywhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checks.read_config(path).runner_type == "mmonepeace.PretrainRunner"
