"""`--cfg-options`: what nothing reads is refused."""

import argparse
import inspect

import pytest
from mmengine.config import Config

from mmonepeace import checks
from mmonepeace.checks import CheckError
from mmonepeace.checks.overrides import _UNDECLARED
from mmonepeace.layers.adapters import ADAPTERS
from mmonepeace.layers.heads import ClassificationHead
from mmonepeace.models.video_classifier import FrameMeanHead
from tests.conftest import ROOT, SEGMENTATION

DETECTION = ROOT / "configs/tiny/resnet18_faster-rcnn_bccd.py"


def refused(path, key, says):
    with pytest.raises(CheckError) as error:
        checks.apply_overrides(Config.fromfile(path), {key: 1})
    assert key in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.backbone.drop_path_rat", "model.backbone.drop_path_rate"),
        ("optim_wrapper.optimizer.lrr", "optim_wrapper.optimizer.lr"),
        ("train_cfg.max_iter", "train_cfg.max_iters"),
        ("modle.backbone.arch", "model"),
        ("train_dataloader.batchsize", "batch_size"),
        ("train_dataloader.dataset.pipeline.99.prob", "0 to 5"),
        ("train_dataloader.dataset.pipeline.prob", "index"),
        ("crop_size", "pipeline.3.crop_size"),
        ("data_root", "train_dataloader.dataset.data_root"),
        ("test_pipeline.1.scale", "val_dataloader.dataset.pipeline"),
        ("data_preprocessor.mean", "model.data_preprocessor"),
    ],
)
def test_an_override_that_nothing_reads_is_refused_with_its_relatives(key, says):
    refused(SEGMENTATION, key, says)


def test_overrides_of_known_keys_and_of_arguments_not_yet_set_are_taken():
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
    cfg = Config.fromfile(SEGMENTATION)
    checks.apply_overrides(cfg, overrides)
    assert cfg.model.backbone.with_cp is True
    assert cfg.optim_wrapper.optimizer.amsgrad is True
    assert cfg.train_dataloader.dataset.pipeline[3].cat_max_ratio == 1.0
    assert cfg.load_from == "x.pth"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.test_cfg.rcnn.nms.iou_thr", "nms.iou_threshold"),
        ("model.train_cfg.rpn.assigner.pos_iou", "pos_iou_thr"),
        ("model.train_cfg.rcnn.sampler.number", "num"),
        ("train_dataloader.dataset.filter_cfg.min_sizes", "min_size"),
        ("val_evaluator.clas_wise", "classwise"),
    ],
)
@pytest.mark.ops
def test_an_override_that_no_detector_reads_is_refused(key, says):
    refused(DETECTION, key, says)


@pytest.mark.ops
def test_overrides_of_detectors_that_the_recipe_leaves_out_are_taken():
    overrides = {
        "model.test_cfg.rcnn.nms.min_score": 0.01,
        "model.test_cfg.rcnn.nms.type": "soft_nms",
        "model.train_cfg.rcnn.assigner.gpu_assign_thr": 10,
        "train_dataloader.dataset.filter_cfg.min_size": 8,
        "train_dataloader.batch_sampler": dict(type="AspectRatioBatchSampler"),
    }
    cfg = Config.fromfile(DETECTION)
    checks.apply_overrides(cfg, overrides)
    assert cfg.model.test_cfg.rcnn.nms.min_score == 0.01


def test_an_index_into_a_tuple_replaces_its_element():
    cfg = Config.fromfile(SEGMENTATION)
    before = cfg.train_dataloader.dataset.pipeline[3].crop_size
    assert before == (128, 128)
    checks.apply_overrides(
        cfg,
        {
            "train_dataloader.dataset.pipeline.3.crop_size.0": 64,
            "train_dataloader.dataset.metainfo.palette.1": (1, 2, 3),
            "optim_wrapper.optimizer.betas.1": 0.98,
        },
    )
    assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (64, 128)
    assert cfg.train_dataloader.dataset.metainfo.palette[:2] == [(40, 40, 40), (1, 2, 3)]
    assert cfg.optim_wrapper.optimizer.betas == (0.9, 0.98)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("train_dataloader.dataset.pipeline.3.crop_size.2", "a list of 2; name an element by"),
        (
            "train_dataloader.dataset.pipeline.-1.prob",
            "is a list of 6; name an element by its index",
        ),
        ("crop_size.0", "pipeline.3.crop_size"),
        ("model.backbone", "is a dict, which one value cannot replace. Set a key of it, such as"),
        ("optim_wrapper.paramwise_cfg.decay", "optim_wrapper.paramwise_cfg.decay_rate"),
    ],
)
def test_what_cannot_be_replaced_is_refused(key, says):
    refused(SEGMENTATION, key, says)


def test_options_of_dicts_without_a_class_are_taken():
    cfg = Config.fromfile(ROOT / "configs/tiny/onepeace-tiny_al_gm-instruments.py")
    overrides = {
        "model.backbone.modalities.audio.padding": "compat",
        "model.backbone.arch.sub_norm": False,
        "train_dataloader.dataset.pipeline.2.ratios.audio": 0.5,
        "optim_wrapper.paramwise_cfg.no_decay": "logit_scale",
    }
    checks.apply_overrides(cfg, overrides)
    assert cfg.model.backbone.modalities.audio.padding == "compat"
    heads = (ClassificationHead, FrameMeanHead)
    options = {name for head in heads for name in inspect.signature(head).parameters}
    assert _UNDECLARED["head"] == options - {"arch", "dim"}
    for name, adapter in ADAPTERS.items():
        parameters = set(inspect.signature(adapter).parameters)
        assert _UNDECLARED[name] == parameters - {"modality", "arch", "num_tables"}


def test_options_of_workers_are_dropped_without_workers():
    cfg = Config.fromfile(SEGMENTATION)
    assert cfg.train_dataloader.persistent_workers
    checks.apply_overrides(cfg, {"train_dataloader.num_workers": 0})
    assert "persistent_workers" not in cfg.train_dataloader
    assert cfg.val_dataloader.persistent_workers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train_cfg.max_iters", "--cfg-options train_cfg.max_iters: expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("a.b=[0,1", "--cfg-options a.b=[0,1: a bracket is not closed."),
    ],
)
def test_what_is_not_key_and_value_is_an_error_of_the_command_line(text, says, capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=checks.OverridesAction)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--cfg-options", "x=1", text])
    assert end.value.code == 2
    assert says in capsys.readouterr().err
    assert parser.parse_args(["--cfg-options", "x=1", "y=[1,2]"]).cfg_options == {
        "x": 1,
        "y": [1, 2],
    }
