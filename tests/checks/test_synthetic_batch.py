"""Batches without data have the sizes of the recipe."""

import pytest
from mmengine.config import Config

from mmonepeace.checks.report import CheckError
from mmonepeace.checks.synthetic_batch import _image_size


def size_of(*steps, scope="mmseg", img_size=None):
    cfg = Config(dict(default_scope=scope, model=dict(backbone=dict(img_size=img_size))))
    return _image_size(cfg, list(steps))


@pytest.mark.parametrize(
    ("step", "scope", "expected"),
    [
        (dict(type="RandomCrop", crop_size=(512, 1024)), "mmseg", (512, 1024)),
        (dict(type="RandomCrop", crop_size=(320, 240)), "mmdet", (240, 320)),
        (dict(type="CenterCrop", crop_size=(320, 240)), "mmpretrain", (240, 320)),
        (dict(type="RandomResizedCrop", scale=(224, 448)), "mmpretrain", (224, 448)),
        (dict(type="RandomResizedCrop", scale=224), "mmpretrain", (224, 224)),
        (dict(type="RandomResize", scale=(2048, 512), keep_ratio=True), "mmseg", (512, 2048)),
        (dict(type="Resize", scale=(1333, 800), keep_ratio=True), "mmdet", (800, 1333)),
        (dict(type="RandomResize", scale=[(640, 480), (1333, 800)]), "mmdet", (800, 1333)),
        (dict(type="Pad", size=(1024, 512)), "mmseg", (512, 1024)),
    ],
)
def test_sides_are_in_the_order_of_the_transform(step, scope, expected):
    assert size_of(step, scope=scope) == expected


def test_the_last_transform_with_a_size_counts():
    resize = dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0))
    crop = dict(type="RandomCrop", crop_size=(256, 512))
    assert size_of(resize, crop, dict(type="PackSegInputs")) == (256, 512)
    assert size_of(crop, dict(type="Resize", scale=(128, 64))) == (64, 128)


def test_shares_are_no_sizes():
    share = dict(type="RandomResizedCropAndInterpolation", scale=(0.2, 1.0))
    assert size_of(share, img_size=64) == (64, 64)
    with pytest.raises(CheckError, match="Give --img PIXELS"):
        size_of(share)
