import shutil

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmonepeace import checks
from mmonepeace.checks import CheckError
from mmonepeace.checks.labels import LabelError, check_values
from mmonepeace.engine import run_options
from tests.conftest import ROOT

CONFIG = ROOT / "configs/tiny/onepeace-tiny_upernet_emoji-128.py"


@pytest.fixture
def cfg(seg_data):
    cfg = Config.fromfile(CONFIG)
    run_options.set_data_root(cfg, str(seg_data))
    return cfg


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.backbone.drop_path_rat", "model.backbone.drop_path_rate"),
        ("optim_wrapper.optimizer.lrr", "optim_wrapper.optimizer.lr"),
        ("train_cfg.max_iter", "train_cfg.max_iters"),
        ("modle.backbone.arch", "model"),
        ("train_dataloader.batchsize", "batch_size"),
        ("train_dataloader.dataset.pipeline.99.prob", "0 to 5"),
        ("train_dataloader.dataset.pipeline.prob", "number"),
        ("crop_size", "pipeline.3.crop_size"),
        ("data_root", "train_dataloader.dataset.data_root"),
        ("test_pipeline.1.scale", "val_dataloader.dataset.pipeline"),
        ("data_preprocessor.mean", "model.data_preprocessor"),
    ],
)
def test_an_override_that_nothing_reads_is_refused_with_its_relatives(key, says):
    cfg = Config.fromfile(CONFIG)
    with pytest.raises(CheckError) as error:
        checks.apply_overrides(cfg, {key: 1})
    assert key in str(error.value)
    assert says in str(error.value)


def test_overrides_of_known_keys_and_of_arguments_not_yet_set_are_taken(cfg):
    overrides = {
        "model.backbone.drop_path_rate": 0.3,
        "model.backbone.with_cp": True,  # an argument of OnePeace that the config leaves out
        "model.backbone.init_cfg": None,
        "optim_wrapper.optimizer.amsgrad": True,
        "optim_wrapper.accumulative_counts": 2,
        "train_dataloader.dataset.pipeline.3.cat_max_ratio": 1.0,
        "load_from": "x.pth",
        "compile": True,
    }
    checks.apply_overrides(cfg, overrides)
    assert cfg.model.backbone.with_cp is True
    assert cfg.optim_wrapper.optimizer.amsgrad is True
    assert cfg.train_dataloader.dataset.pipeline[3].cat_max_ratio == 1.0
    assert cfg.load_from == "x.pth"


def test_good_data_pass(cfg):
    checks.check_all(cfg)


def test_missing_folder_is_named_with_help(cfg):
    run_options.set_data_root(cfg, "/nowhere")
    with pytest.raises(CheckError) as error:
        checks.check_data(cfg)
    for text in ("/nowhere/img_dir/train", "--data-root", "make demo"):
        assert text in str(error.value)


def test_the_main_recipe_says_what_to_get_and_how_to_try_now():
    cfg = Config.fromfile(ROOT / "configs/onepeace_upernet_ade20k.py")
    with pytest.raises(CheckError) as error:
        checks.check_all(cfg)
    for text in (
        "ADEChallengeData2016.zip", "data/ade", "one-peace-vision.pkl", "checkpoints/",
        "--checkpoint PATH", "--data-root DIR", "make demo",
    ):  # fmt: skip
        assert text in str(error.value)
    assert str(error.value).count("make demo") == 1


def copy_data(seg_data, tmp_path, cfg):
    root = tmp_path / "data"
    shutil.copytree(seg_data, root)
    run_options.set_data_root(cfg, str(root))
    return root


def test_a_label_outside_the_classes_names_file_value_and_fix(cfg, seg_data, tmp_path):
    root = copy_data(seg_data, tmp_path, cfg)
    path = root / "ann_dir/train/5.png"
    labels = np.array(Image.open(path))
    labels[3, 4] = 9
    Image.fromarray(labels).save(path)
    with pytest.raises(LabelError) as error:
        checks.check_data(cfg)
    for text in (str(path), "label 9", "9 classes", "reduce_zero_label"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"), [("truncated", "cannot be read"), ("colours", "one channel")]
)
def test_a_label_map_that_is_none_is_named(cfg, seg_data, tmp_path, content, says):
    path = copy_data(seg_data, tmp_path, cfg) / "ann_dir/train/2.png"
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:60])
    else:
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(LabelError, match=rf"ann_dir/train/2\.png.*{says}"):
        checks.check_data(cfg)


def test_ignored_pixels_are_no_error(cfg, seg_data, tmp_path):
    root = copy_data(seg_data, tmp_path, cfg)
    path = root / "ann_dir/val/1.png"
    Image.fromarray(np.full_like(np.array(Image.open(path)), 255)).save(path)
    checks.check_data(cfg)


def test_an_image_without_label_map_is_named(cfg, seg_data, tmp_path):
    root = copy_data(seg_data, tmp_path, cfg)
    (root / "ann_dir/val/2.png").unlink()
    with pytest.raises(CheckError, match=r"val_dataloader.*ann_dir/val/2\.png"):
        checks.check_data(cfg)


def test_an_empty_folder_is_named(cfg, seg_data, tmp_path):
    root = copy_data(seg_data, tmp_path, cfg)
    for path in (root / "img_dir/train").iterdir():
        path.unlink()
    with pytest.raises(CheckError, match=r"no \*\.png images"):
        checks.check_data(cfg)


@pytest.mark.parametrize("head", ["decode_head", "auxiliary_head"])
def test_a_wrong_number_of_classes_is_named_with_the_right_one(cfg, head):
    cfg.model[head].num_classes = 7
    with pytest.raises(CheckError, match=rf"{head}.num_classes is 7.*9 classes"):
        checks.check_data(cfg)


def test_missing_weights_are_named(cfg):
    cfg.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "none.pth"}
    with pytest.raises(CheckError, match=r"none\.pth"):
        checks.check_weights(cfg)


def test_a_model_to_start_from_must_be_there(cfg, tmp_path):
    cfg.load_from = str(tmp_path / "earlier.pth")
    with pytest.raises(CheckError, match=r"earlier\.pth does not exist.*\n.*load_from=None"):
        checks.check_weights(cfg)
    (tmp_path / "earlier.pth").touch()
    checks.check_weights(cfg)


def test_check_values_accepts_classes_and_ignore_index():
    check_values([0, 3, 255], 4, 255, "x.png")
    for bad in (4, 254, -1):
        with pytest.raises(LabelError, match=f"label {bad}"):
            check_values([0, bad], 4, 255, "x.png")


def test_float16_needs_a_gpu(cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(CheckError, match="--bf16"):
        run_options.set_precision(cfg, "float16")


def test_resume_from_a_missing_file_is_refused(cfg):
    with pytest.raises(CheckError, match=r"gone\.pth"):
        run_options.set_resume(cfg, "gone.pth")
