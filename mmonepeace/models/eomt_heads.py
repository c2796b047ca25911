"""Heads that classify mask queries, for mmseg's segmentor and for mmdet's Mask2Former.

Shapes: B batch, Q queries, C classes, D width, h x w cells of masks, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmonepeace.models.mask_losses import MaskLoss, MaskTargets
from mmonepeace.models.onepeace_eomt import QueryMasks
from mmonepeace.registry import MODELS

_NO_STUFF = 255  # of pixels that belong to nothing, as mmdet's transforms load and pad label maps
Samples = Sequence[Any]  # of mmseg or mmdet, one per image


class _QueryHead(BaseModule):
    """Classes of queries, and the losses of classes and masks.

    Args:
        num_classes: C.
        in_channels: D.
        train_cfg: options of `MaskLoss`.
    """

    def __init__(
        self, num_classes: int, in_channels: int, train_cfg: Mapping[str, Any] | None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Linear(in_channels, num_classes + 1)  # the last is "no object"
        self.losses = MaskLoss(num_classes, **train_cfg or {})

    def forward(self, outputs: Sequence[QueryMasks]) -> list[tuple[Tensor, Tensor]]:
        """Logits of classes (B, Q, C + 1) and of masks (B, Q, h, w), of each block."""
        return [(self.classifier(queries), masks) for queries, masks in outputs]


@MODELS.register_module()
class EoMTHead(_QueryHead):
    """Semantic segmentation by the queries of `OnePeaceEoMT`, a decode head of mmseg.

    A class has one mask. The logit of a pixel is the sum over queries of their class's probability
    times that of their mask, from 0 on.

    Args:
        num_classes: C.
        in_channels: D; `EncoderDecoder` fills it in.
        ignore_index: label of pixels that are in no mask.
        train_cfg: options of `MaskLoss`.
    """

    align_corners = False

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        ignore_index: int = 255,
        train_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes, in_channels, train_cfg)
        self.out_channels = num_classes
        self.ignore_index = ignore_index

    def loss(
        self, outputs: Sequence[QueryMasks], samples: Samples, train_cfg: Any = None
    ) -> dict[str, Tensor]:
        """Losses of all blocks, see `MaskLoss`; `train_cfg` of the segmentor is not used, as in mmseg."""
        targets = [
            semantic_targets(sample.gt_sem_seg.data[0], self.ignore_index) for sample in samples
        ]
        return self.losses(self(outputs), targets)

    def predict(
        self,
        outputs: Sequence[QueryMasks],
        metas: Sequence[Mapping[str, Any]],
        test_cfg: Any = None,
    ) -> Tensor:
        """Logits of pixels, (B, C, H, W), at the size of the images that the model was given."""
        logits, masks = self(outputs[-1:])[0]
        size = metas[0].get("pad_shape", metas[0]["img_shape"])[:2]
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False).sigmoid_()
        return torch.einsum("bqc,bqhw->bchw", logits.softmax(-1)[..., :-1], masks)


@MODELS.register_module()
class EoMTPanopticHead(_QueryHead):
    """Instances, or instances and stuff, by the queries of `OnePeaceEoMT`, for mmdet's Mask2Former.

    Its `panoptic_fusion_head`, MaskFormerFusionHead, makes the results.

    Args:
        in_channels: D; the detector fills it in.
        num_things_classes: classes of instances.
        num_stuff_classes: classes of `gt_sem_seg`, which has them after those of instances.
        train_cfg: options of `MaskLoss`; from the detector.
        test_cfg: from the detector, for the fusion head alone.
    """

    def __init__(
        self,
        in_channels: int,
        num_things_classes: int = 80,
        num_stuff_classes: int = 53,
        train_cfg: Mapping[str, Any] | None = None,
        test_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_things_classes + num_stuff_classes, in_channels, train_cfg)
        # The detector reads both.
        self.num_things_classes, self.num_stuff_classes = num_things_classes, num_stuff_classes

    def loss(self, outputs: Sequence[QueryMasks], samples: Samples) -> dict[str, Tensor]:
        """Losses of all blocks, see `MaskLoss`."""
        device = outputs[0].masks_BQhw.device
        targets = [panoptic_targets(sample, self.num_things_classes, device) for sample in samples]
        return self.losses(self(outputs), targets)

    def predict(self, outputs: Sequence[QueryMasks], samples: Samples) -> tuple[Tensor, Tensor]:
        """Logits of classes (B, Q, C + 1), and of masks (B, Q, H, W) at the size of the batch."""
        logits, masks = self(outputs[-1:])[0]
        size = samples[0].metainfo["batch_input_shape"][:2]
        return logits, F.interpolate(masks, size, mode="bilinear", align_corners=False)


def semantic_targets(labels_HW: Tensor, ignore_index: int) -> MaskTargets:
    """One mask for each class of a label map."""
    classes = labels_HW.unique()
    classes = classes[classes != ignore_index]
    return MaskTargets(classes, labels_HW == classes[:, None, None])


def panoptic_targets(sample: Any, num_things: int, device: torch.device) -> MaskTargets:
    """A mask for each instance, and one for each class of stuff, if the sample has a label map."""
    instances = sample.gt_instances
    masks = instances.masks.to_tensor(torch.bool, device)
    if "gt_sem_seg" not in sample:
        return MaskTargets(instances.labels, masks)
    labels_HW = sample.gt_sem_seg.sem_seg[0].to(device)
    classes = labels_HW.unique()
    classes = classes[(classes >= num_things) & (classes != _NO_STUFF)]
    stuff = labels_HW == classes[:, None, None]
    return MaskTargets(torch.cat([instances.labels, classes]), torch.cat([masks, stuff]))
