"""What tools say before a run that cannot succeed; which faults they stop at: test_faults.py."""

import runpy
import sys

import numpy as np
import pytest
from mmengine.config import Config
from PIL import ExifTags, Image

from mmonepeace import checks
from mmonepeace.checks import CheckError
from mmonepeace.engine import run_options
from tests.checks.data import edit
from tests.checks.pairs import PAIRS, as_phrases
from tests.checks.segmentation import each_label, one_pixel_outside
from tests.conftest import ROOT, SEGMENTATION

PRETRAINING = ROOT / "configs/tiny/onepeace-tiny_vl_emoji-64.py"


def refusal(cfg, check=checks.check_run):
    with pytest.raises(CheckError) as error:
        check(cfg)
    return str(error.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            "onepeace_upernet_ade20k.py",
            (
                "ADEChallengeData2016.zip", "data/ade", "one-peace-vision.pkl", "checkpoints/",
                "--checkpoint PATH", "make demo",
            ),
        ),
        ("tiny/resnet18_faster-rcnn_bccd.py", ("/nowhere/train", "BCCD_Dataset", "make det-demo")),
    ],
)  # fmt: skip
def test_a_recipe_says_what_to_get_and_how_to_see_a_run_now(config, says):
    cfg = Config.fromfile(ROOT / "configs" / config)
    if cfg.default_scope == "mmdet":
        pytest.importorskip("mmdet", reason="needs mmdetection: make env-full")
        run_options.set_data_root(cfg, "/nowhere")
    text = refusal(cfg)
    for part in (*says, "--data-root DIR"):
        assert part in text
    assert text.count("To see a complete run now") == 1


@pytest.mark.parametrize(
    ("config", "demo"),
    [
        ("refcoco-384", "ground-demo"),
        ("nlvr2-256", "vqa-demo"),
        ("vqa-480", "vqa-demo"),
        ("avqa", "audio-demo"),
        ("vggsound", "audio-demo"),
        ("retrieval_coco-256", "pretrain-demo"),
        ("retrieval_audiocaps", "pretrain-demo"),
    ],
)
def test_a_recipe_of_a_task_names_its_demo(config, demo):
    cfg = Config.fromfile(ROOT / f"configs/tasks/onepeace-giant_{config}.py")
    run_options.set_data_root(cfg, "/nowhere")
    text = refusal(cfg, checks.check_data)
    assert text.endswith(f"without your own data: make {demo}")
    needs_data = cfg.needs_data.replace(f"{cfg.data_root}/", "/nowhere/")
    assert f"This recipe needs {needs_data}." in text


@pytest.mark.parametrize(
    ("tables", "needs"), [(("train", "val"), ""), (("train",), "{}/{{train,val}}.tsv with columns")]
)
def test_data_that_are_in_the_folder_that_was_named_are_not_asked_for(tables, needs, tmp_path):
    cfg = Config.fromfile(ROOT / "configs/tiny/onepeace-tiny_classify_esc10.py")
    for table in tables:
        (tmp_path / f"{table}.tsv").write_text("audio\tlabel\nnowhere.wav\train\n")
    run_options.set_data_root(cfg, str(tmp_path))
    text = refusal(cfg, checks.check_data)
    assert "data/esc10" not in text
    assert ("This recipe needs" in text) == bool(needs)
    assert needs.format(tmp_path) in text
    assert "make audio-demo" in text


def test_a_label_outside_the_classes_is_told_with_file_value_expectation_and_fix(segmentation):
    one_pixel_outside(segmentation)
    text = refusal(segmentation.cfg, checks.check_data)
    outside = "label maps have values outside the classes 0 to 2: 3; 255 is ignored (1 of 6)."
    for part in (
        f"[label-outside-classes] train: {outside}",
        f"{segmentation.label('train', 0)}: 3",
        "fix: correct the files",
        "reduce_zero_label=True",
    ):
        assert part in text


def test_label_maps_are_read_for_a_limited_time(segmentation, monkeypatch):
    monkeypatch.setattr("mmonepeace.checks.run._LABEL_SECONDS", 1e-9)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    each_label(segmentation, lambda m: np.where(m == 1, 7, m))
    assert "(1 of 1)" in refusal(segmentation.cfg, checks.check_data)


def test_at_most_so_many_label_maps_are_read(segmentation, monkeypatch):
    monkeypatch.setattr("mmonepeace.checks.run._LABEL_MAPS", 2)
    each_label(segmentation, lambda m: np.where(m == 1, 7, m))
    assert "(2 of 2)" in refusal(segmentation.cfg, checks.check_data)


def test_other_splits_than_those_of_a_tool_are_left_alone(segmentation):
    one_pixel_outside(segmentation)
    checks.check_data(segmentation.cfg, ("test_dataloader",))


def test_some_missing_files_of_pairs_are_tolerated(pair_data):
    (pair_data.root / "files/3.png").unlink()
    for dataset in (pair_data.cfg[f"{name}_dataloader"].dataset for name in ("train", "val")):
        dataset.max_broken = 0.1
    checks.check_data(pair_data.cfg)
    pair_data.cfg.train_dataloader.dataset.test_mode = True
    checks.check_data(pair_data.cfg)
    pair_data.cfg.train_dataloader.dataset.max_broken = 0.05
    assert "files/3.png" in refusal(pair_data.cfg, checks.check_data)


def of_phrases(pair_data, box):
    as_phrases(pair_data, "0,0,9,9")
    pair_data.replace("thing 3\t0,0,9,9", f"thing 3\t{box}")
    return pair_data.cfg


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ("-20,10,40,40", "-20,10,40,40 in 64 x 48"),
        ("10,10,400,40", "by up to 336 pixels and 86% of their area (1 of 6)"),
        ("0.1,0.1,0.5,0.5", "boxes are fractions of the image, from 0 to 1, not pixels (1 of 6)"),
    ],
)
def test_one_wrong_box_stops_a_run(pair_data, box, says):
    text = refusal(of_phrases(pair_data, box), checks.check_data)
    assert says in text
    assert f"{pair_data.root}/files/3.png: {box}" in text


def test_a_box_below_zero_is_found_without_its_image(pair_data, monkeypatch):
    monkeypatch.setattr("mmonepeace.checks.pairs._QUICK", 1)
    text = refusal(of_phrases(pair_data, "-20,10,40,40"), checks.check_data)
    assert "files/3.png: -20,10,40,40" in text


def test_images_are_measured_as_they_are_shown(pair_data):
    cfg = of_phrases(pair_data, "0,0,40,60")
    turned, sideways = Image.Exif(), 6
    turned[ExifTags.Base.Orientation] = sideways
    path = pair_data.root / "files/3.png"
    for form in ("PNG", "JPEG", "TIFF"):
        Image.open(path).convert("RGB").resize((64, 48)).save(path, form, exif=turned)
        checks.check_data(cfg)


def test_a_small_fault_is_a_warning(pair_data, capsys):
    checks.check_data(of_phrases(pair_data, "-2,0,60,40"))
    said = capsys.readouterr().err
    assert said.startswith("warning: [phrase-box-outside] train: boxes extend beyond their images")
    assert f"{pair_data.root}/files/3.png: -2,0,60,40 in 64 x 48" in said


def test_rows_without_a_target_are_counted_and_named(pair_data, capsys):
    PAIRS["an_answer_with_a_typing_error"][0](pair_data)
    checks.check_data(pair_data.cfg)
    said = capsys.readouterr().err
    assert said.startswith("warning: [row-without-target] train: rows have no target")
    assert "(1 of 6)" in said
    row = f"{pair_data.root}/train.tsv: line 5: class is 'thlng|!+1|!+1&&othr|!+1|!+0.3'"
    assert row in said


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run a tool; its exit status and what it complained of."""

    def run(tool, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        return end.value.code, capfd.readouterr().err

    return run


@pytest.mark.parametrize("tool", ["train.py", "test.py", "show_predictions.py"])
def test_tools_stop_in_the_words_of_the_full_check(tool, run, seg_data_copy, tmp_path):
    path = seg_data_copy / "ann_dir/val/1.png"
    edit(path, lambda labels: np.where(labels == labels[0, 0], 9, labels))
    cfg = Config.fromfile(SEGMENTATION)
    run_options.set_data_root(cfg, str(seg_data_copy))
    (finding,) = [f for f in checks.examine(cfg).findings if f.code == "label-outside-classes"]
    (tmp_path / "x.pth").touch()
    arguments = ["x.pth"] if tool != "train.py" else []
    status, complaint = run(tool, SEGMENTATION, *arguments, "--data-root", seg_data_copy)
    assert status == 2
    said = str(finding) if tool == "train.py" else str(finding).replace("val and test", "test")
    assert f"error: {said}" in complaint


def test_pretraining_stops_in_the_words_of_the_full_check(run, tmp_path):
    cfg = Config.fromfile(PRETRAINING)
    run_options.set_data_root(cfg, str(tmp_path))
    findings = checks.examine(cfg).of("error")
    assert {finding.code for finding in findings} == {"table-unusable", "tokenizer-unusable"}
    status, complaint = run("pretrain.py", PRETRAINING, "--data-root", tmp_path)
    assert status == 2
    for finding in findings:
        assert finding.briefly() in complaint
