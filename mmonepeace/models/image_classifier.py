"""mmpretrain's classifier around our backbone, registered under its name."""

from typing import Any

from mmengine.model import BaseModel

from mmonepeace.models.mixup import Mixup
from mmonepeace.models.widths import fill_widths
from mmonepeace.registry import MODELS
from mmonepeace.spec import IMAGE_MEAN, IMAGE_STD


@MODELS.register_module("ImageClassifier")
def image_classifier(
    backbone: dict[str, Any],
    head: dict[str, Any],
    neck: dict[str, Any] | None = None,
    train_cfg: dict[str, Any] | None = None,
    data_preprocessor: dict[str, Any] | None = None,
    init_cfg: dict[str, Any] | None = None,
    mixup: dict[str, Any] | None = None,
) -> BaseModel:
    """Build an `mmpretrain.ImageClassifier`, filling in what the config leaves out.

    All arguments are configs. `in_channels` of the head follow the backbone, see `fill_widths`. The
    preprocessor by default converts BGR to RGB, normalises with `spec.IMAGE_MEAN` and
    `spec.IMAGE_STD` and takes `num_classes` from the head. `mixup` has options of `Mixup`, timm's Mixup
    and CutMix; mmpretrain's are in `train_cfg.augments`.

    Raises:
        ValueError: if batches are to be mixed by both.
    """
    normalisation = dict(mean=IMAGE_MEAN, std=IMAGE_STD, to_rgb=True)
    classes: dict[str, Any] = {"num_classes": head["num_classes"]} if "num_classes" in head else {}
    if mixup is not None:
        if "augments" in (train_cfg or {}) or "batch_augments" in (data_preprocessor or {}):
            raise ValueError("mixup and train_cfg.augments would both mix a batch: leave one out.")
        classes["batch_augments"] = {"augments": [Mixup(**{**classes, **mixup})]}
    return MODELS.build(
        dict(
            type="ImageClassifier",
            _scope_="mmpretrain",
            **fill_widths(dict(backbone=backbone, neck=neck, head=head)),
            train_cfg=train_cfg,
            data_preprocessor=normalisation | classes | (data_preprocessor or {}),
            init_cfg=init_cfg,
        )
    )
