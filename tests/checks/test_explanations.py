"""Errors of building and running become one line with the key of the config."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope

from mmonepeace.checks import CheckError, explain
from mmonepeace.checks.building import build_on_meta, check_parts
from mmonepeace.datasets.broken_samples import BrokenSamples
from tests.conftest import ROOT, SEGMENTATION

PRETRAINING = ROOT / "configs/tiny/onepeace-tiny_vl_emoji-64.py"
SMALL = {
    "model.backbone.out_indices": [0, 1, 2, 3],
    "model.decode_head.channels": 16,
    "model.auxiliary_head.channels": 16,
}


def read(path, **changes):
    cfg = Config.fromfile(path)
    if path == SEGMENTATION:
        cfg.model.backbone.arch = dict(embed_dim=32, depth=4, num_heads=2)
        cfg.merge_from_dict(SMALL)
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    init_default_scope(cfg.default_scope)
    return cfg


def refusal(cfg, run):
    with pytest.raises(CheckError) as error, explain(cfg, log=False):
        run(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(model__backbone__frozen_stages=99), "model.backbone.frozen_stages is 99, expected"),
        (dict(model__backbone__img_size=130), "model.backbone.img_size 130 is not a multiple"),
        (dict(model__backbone__arch__num_heads=3), "model.backbone.arch.embed_dim 32 is not a"),
        (
            dict(model__backbone__out_indices=[0, 1, 2]),
            "model.backbone.out_indices is [0, 1, 2], but",
        ),
        (dict(model__neck__embed_dim=64), "model.neck.embed_dim is 64, but the backbone has 32"),
        (
            dict(model__decode_head__in_channels=[32] * 3),
            "model.decode_head.in_channels is [32, 32, 32]: not true: len(in_channels) == len(",
        ),
        (dict(model__test_cfg__mode="sliding"), "model.test_cfg.mode is 'sliding', it should be"),
        (
            dict(model__test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(96, 96))),
            "model.test_cfg.stride (96, 96) is larger than crop_size (64, 64)",
        ),
        (dict(model__decode_head__type="UperHedd"), "model.decode_head.type is 'UperHedd', and"),
        (dict(model__decode_head__colour=1), "model.decode_head.colour: "),
        (
            dict(optim_wrapper__paramwise_cfg__preset="official"),
            "optim_wrapper.paramwise_cfg.preset is 'official'; choose one of default",
        ),
        (dict(param_scheduler__1__begin=700), "param_scheduler.1.end"),
        (
            dict(train_dataloader__dataset__pipeline__4__direction="sideways"),
            "pipeline.4.direction is 'sideways': not true: direction in valid_directions",
        ),
    ],
)
def test_a_part_that_cannot_be_built_is_named_before_data_are_read(changes, says):
    assert says in refusal(read(SEGMENTATION, **changes), check_parts)


def test_a_missing_argument_is_named_with_its_class():
    cfg = read(SEGMENTATION, model__decode_head=dict(_delete_=True, type="UPerHead"))
    assert "model.decode_head.channels is missing; UPerHead needs" in refusal(cfg, check_parts)


def test_arguments_of_parts_without_a_type_are_named_too():
    changes = {"model.backbone.modalities": dict(text=dict(vocab=300), image={})}
    line = refusal(read(PRETRAINING, **changes), check_parts)
    assert line.startswith("model.backbone.modalities.text.vocab: TextAdapter has no argument")
    assert line.endswith("Did you mean vocab_size?")


def test_of_two_parts_the_one_with_the_values_of_the_message_is_named():
    line = refusal(read(PRETRAINING, model__decoder__num_heads=5), check_parts)
    assert line.startswith("model.decoder.embed_dim 128 is not a multiple of num_heads 5.")


def test_a_part_that_fails_in_a_step_is_named_with_what_it_got():
    cfg = read(SEGMENTATION)
    model = MODELS.build(cfg.model)
    model.decode_head.fpn_bottleneck.conv = torch.nn.Conv2d(7, 16, 3)

    def step(_):
        model.train()
        model(torch.zeros(2, 3, 64, 64), mode="tensor")

    line = refusal(cfg, step)
    assert line.startswith("model.decode_head: RuntimeError: ")
    assert "It is built for inputs of 7 channels and gets 64" in line
    assert "(traceback: " in line


def test_a_transform_that_fails_is_named_by_its_place(seg_data):
    cfg = read(SEGMENTATION)
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = str(seg_data)
    dataset.pipeline[2].scale = "large"
    line = refusal(cfg, lambda cfg: DATASETS.build(cfg.train_dataloader.dataset)[0])
    assert line.startswith("train_dataloader.dataset.pipeline.2")


def test_a_pipeline_in_which_every_sample_breaks_is_named_by_the_setting():
    cfg = read(SEGMENTATION)
    broken = BrokenSamples(12, 0.5)

    def load(cfg):
        transform = TRANSFORMS.build({**cfg.train_dataloader.dataset.pipeline[2], "ratio_range": 2})
        for index in range(12):
            try:
                transform({"img": np.zeros((8, 8, 3), np.uint8)})
            except TypeError as error:
                broken.add(index, error, str)

    cfg.train_dataloader.dataset.pipeline[2].ratio_range = 2
    assert refusal(cfg, load).startswith("train_dataloader.dataset.pipeline.2.ratio_range is 2: ")


def test_errors_in_plain_words_stay_as_they_are():
    cfg = read(SEGMENTATION)
    error = CheckError("two\nlines")
    with pytest.raises(CheckError) as raised, explain(cfg):
        raise error
    assert raised.value is error
    full = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space") as disk, explain(cfg):
        raise full
    assert disk.value is full


def test_a_model_that_computes_while_it_is_built_is_left_to_the_run():
    @MODELS.register_module(force=True)
    class Computes(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.weight.sum().item()

    assert build_on_meta(dict(type=Computes)) is None
