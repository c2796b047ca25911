"""Widths of necks and heads follow the backbone where a config leaves them out."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models import SegDataPreProcessor as MMSegDataPreProcessor

from mmonepeace.models.segmentor import SegDataPreProcessor
from mmonepeace.models.widths import fill_widths
from mmonepeace.registry import MODELS
from mmonepeace.spec import ARCHS, IMAGE_MEAN, IMAGE_STD
from tests.conftest import TINY

FOUR = dict(type="UPerHead", in_index=[0, 1, 2, 3])
ONE = dict(type="FCNHead", in_index=2)


def segmentor(backbone=(), neck=(), decode_head=(), **parts):
    return ConfigDict(
        backbone=dict(type="mmonepeace.OnePeace", arch="base") | dict(backbone),
        neck=dict(type="Feature2Pyramid") | dict(neck),
        decode_head=FOUR | dict(decode_head),
        auxiliary_head=ONE,
        **parts,
    )


@pytest.mark.parametrize("arch", [*ARCHS, dict(embed_dim=48, depth=8, num_heads=3)])
def test_another_arch_is_one_change(arch):
    filled = fill_widths(segmentor(dict(arch=arch)))
    width = ARCHS[arch].embed_dim if isinstance(arch, str) else arch["embed_dim"]
    assert filled["neck"]["embed_dim"] == width
    assert filled["decode_head"]["in_channels"] == [width] * 4
    assert filled["auxiliary_head"]["in_channels"] == width
    depth = ARCHS[arch].depth if isinstance(arch, str) else arch["depth"]
    assert list(filled["backbone"]["out_indices"]) == {
        8: [1, 3, 5, 7], 12: [3, 5, 7, 11], 24: [7, 11, 15, 23], 40: [9, 19, 29, 39],
    }[depth]  # fmt: skip


def test_the_released_size_is_the_default():
    config = segmentor()
    del config["backbone"]["arch"]
    assert fill_widths(config)["neck"]["embed_dim"] == 1536


def test_the_config_itself_stays_as_it_is():
    config = segmentor(train_cfg=dict(x=1))
    before = copy.deepcopy(config)
    filled = fill_widths(config)
    assert config == before
    assert filled["train_cfg"] is config["train_cfg"]
    assert fill_widths(filled) == filled


def test_what_the_config_gives_is_kept():
    config = segmentor(
        dict(out_indices=[0, 1, 2, 3]), dict(embed_dim=768), dict(in_channels=(768,) * 4)
    )
    filled = fill_widths(config)
    for part in ("neck", "decode_head"):
        assert filled[part] == config[part]
    assert filled["backbone"] == config["backbone"]


def test_a_pyramid_has_its_own_width_and_takes_one_map():
    config = segmentor(neck=dict(type="mmonepeace.SimpleFeaturePyramid"))
    filled = fill_widths(config)
    assert filled["neck"]["in_channels"] == 768
    assert filled["decode_head"]["in_channels"] == [256] * 4
    assert "out_indices" not in filled["backbone"]
    config.neck.out_channels = 64
    assert fill_widths(config)["auxiliary_head"]["in_channels"] == 64


def test_the_vit_adapter_needs_no_neck_and_no_indices():
    config = segmentor(dict(type="mmonepeace.OnePeaceViTAdapter"))
    filled = fill_widths(config | dict(neck=None))
    assert filled["decode_head"]["in_channels"] == [768] * 4
    assert "out_indices" not in filled["backbone"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (dict(neck=dict(embed_dim=384)), r"neck\.embed_dim is 384.*backbone has 768.*set it to 768"),
        (dict(decode_head=dict(in_channels=[768] * 3 + [1024])), r"decode_head\.in_channels is \[768"),
        (
            dict(
                neck=dict(type="SimpleFeaturePyramid", out_channels=64),
                decode_head=dict(in_channels=[256] * 4),
            ),
            r"decode_head\.in_channels is .* the neck has 64 channels",
        ),
        (
            dict(backbone=dict(out_indices=[3, 7, 11])),
            r"backbone\.out_indices is \[3, 7, 11\], but the decode head takes four maps",
        ),
    ],
)  # fmt: skip
def test_a_width_that_does_not_fit_is_named_with_the_one_that_does(parts, message):
    with pytest.raises(ValueError, match=message):
        fill_widths(segmentor(**parts))


@pytest.mark.parametrize("kind", ["mmseg.VisionTransformer", "ResNet", "nothing.Known"])
def test_other_backbones_and_necks_are_left_alone(kind):
    config = segmentor(dict(type=kind))
    assert fill_widths(config) == config
    config = segmentor(neck=dict(type="MultiLevelNeck", in_channels=[768] * 4))
    filled = fill_widths(config)
    assert filled["neck"] == config["neck"]
    assert filled["decode_head"] == config["decode_head"]


def test_maps_of_the_stem_come_first_each_with_its_width():
    backbone = dict(
        type="mmonepeace.OnePeace",
        arch=dict(embed_dim=64, depth=3, num_heads=4, stem="overlapping"),
        stem_maps=True,
        out_indices=[1, 2],
    )
    config = dict(
        backbone=backbone,
        decode_head=dict(type="UPerHead", in_index=[0, 1, 3]),
        auxiliary_head=dict(type="FCNHead", in_index=1),
    )
    filled = fill_widths(config)
    widths = [x.shape[1] for x in MODELS.build(backbone)(torch.zeros(1, 3, 32, 32))]
    assert widths == [16, 32, 64, 64]
    assert filled["decode_head"]["in_channels"] == [16, 32, 64]
    assert filled["auxiliary_head"]["in_channels"] == 32
    filled = fill_widths(config | dict(neck=dict(type="FPN", out_channels=24)))
    assert filled["neck"]["in_channels"] == widths
    assert filled["decode_head"]["in_channels"] == [24, 24, 24]
    with pytest.raises(
        ValueError, match="in_index of a head is 4, but the backbone returns 4 maps"
    ):
        fill_widths(config | dict(auxiliary_head=dict(type="FCNHead", in_index=4)))
    with pytest.raises(ValueError, match=r"neck\.in_channels is \[16, 32, 64, 8\]"):
        fill_widths(config | dict(neck=dict(type="FPN", in_channels=[16, 32, 64, 8])))


def test_a_detector_follows_its_pyramid():
    config = dict(
        backbone=dict(type="mmonepeace.OnePeaceViTDet", arch="tiny"),
        neck=dict(type="mmonepeace.SimpleFeaturePyramid", out_channels=64),
        rpn_head=dict(type="RPNHead"),
        roi_head=dict(
            bbox_roi_extractor=dict(type="SingleRoIExtractor"),
            bbox_head=[dict(type="BBoxHead"), dict(type="BBoxHead")],
            mask_head=dict(type="FCNMaskHead"),
        ),
    )
    filled = fill_widths(config)
    assert filled["neck"]["in_channels"] == 192
    assert filled["rpn_head"]["in_channels"] == 64
    roi = filled["roi_head"]
    assert roi["bbox_roi_extractor"]["out_channels"] == 64
    assert [head["in_channels"] for head in (*roi["bbox_head"], roi["mask_head"])] == [64] * 3
    roi["bbox_head"][1]["in_channels"] = 256
    with pytest.raises(ValueError, match=r"roi_head\.bbox_head\.in_channels is 256.*neck has 64"):
        fill_widths(filled)
    del roi["bbox_head"][1]["in_channels"]
    roi["shared_head"] = dict(type="ResLayer")  # whose width is its own
    assert "in_channels" not in fill_widths(filled)["roi_head"]["bbox_head"][1]


def mask2former(**options):
    layers = dict(layer_cfg=dict(self_attn_cfg={}, cross_attn_cfg={}, ffn_cfg={}))
    return dict(
        type="Mask2FormerHead",
        strides=[4, 8, 16, 32],
        pixel_decoder=dict(encoder=copy.deepcopy(layers), positional_encoding={}),
        transformer_decoder=copy.deepcopy(layers),
        positional_encoding={},
        loss_cls={},
        **options,
    )


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("decode_head", dict(num_classes=5)),
        ("panoptic_head", dict(num_things_classes=3, num_stuff_classes=2)),
    ],
)
def test_mask2former_follows_its_channels_and_classes(name, classes):
    config = {
        "backbone": dict(type="mmonepeace.OnePeaceViTAdapter", arch=TINY),
        name: mask2former(feat_channels=128, **classes),
    }
    head = fill_widths(config)[name]
    assert head["in_channels"] == [32] * 4
    assert head["out_channels"] == 128
    for layers in (head["pixel_decoder"]["encoder"], head["transformer_decoder"]):
        attention = dict(embed_dims=128, num_heads=4)
        assert layers["layer_cfg"] == dict(
            self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=dict(embed_dims=128)
        )
    assert head["positional_encoding"] == dict(num_feats=64)
    assert head["pixel_decoder"]["positional_encoding"] == dict(num_feats=64)
    assert head["loss_cls"]["class_weight"] == [1.0] * 5 + [0.1]


def test_normalisation_is_that_of_the_released_models_unless_the_config_says_otherwise():
    ours = SegDataPreProcessor(size_divisor=16)
    given = MMSegDataPreProcessor(IMAGE_MEAN, IMAGE_STD, size_divisor=16, bgr_to_rgb=True)
    images = [torch.randint(0, 255, (3, 20, 24), dtype=torch.uint8)]
    batches = [each(dict(inputs=images))["inputs"] for each in (ours, given)]
    assert torch.equal(*batches)
    plain = SegDataPreProcessor(mean=None, std=None, bgr_to_rgb=False)
    assert torch.equal(plain(dict(inputs=images))["inputs"][0], images[0].float())


def test_a_classifier_of_mmpretrain_is_filled_in():
    pytest.importorskip("mmpretrain")

    def build(config):
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            return MODELS.build(config)

    config = dict(
        type="mmonepeace.ImageClassifier",
        backbone=dict(type="mmonepeace.OnePeace", arch=TINY, out_type="avg_featmap"),
        head=dict(type="LinearClsHead", num_classes=7),
    )
    model = build(config)
    assert type(model).__module__.startswith("mmpretrain.")
    assert model.head.fc.in_features == 32
    preprocessor = model.data_preprocessor
    torch.testing.assert_close(preprocessor.mean.flatten(), torch.tensor(IMAGE_MEAN))
    torch.testing.assert_close(preprocessor.std.flatten(), torch.tensor(IMAGE_STD))
    assert preprocessor.to_rgb
    assert preprocessor.num_classes == 7
    config["data_preprocessor"] = dict(mean=[1, 2, 3], to_rgb=False)
    preprocessor = build(config).data_preprocessor
    assert preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert not preprocessor.to_rgb
