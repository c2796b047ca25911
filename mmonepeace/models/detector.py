"""mmdetection's detectors whose widths follow the backbone, and the official detector's cascade.

The one module of the package that imports mmdet: detectors and heads have to subclass its classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet import models as mmdet_models
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from mmonepeace.models.widths import fill_widths
from mmonepeace.registry import MODELS
from mmonepeace.spec import IMAGE_MEAN, IMAGE_STD

Items = list[Any]  # of a batch, one per image


@MODELS.register_module()
class DetDataPreprocessor(mmdet_models.DetDataPreprocessor):
    """`mmdet.DetDataPreprocessor` whose defaults are the normalisation of the released models."""

    def __init__(
        self,
        mean: Sequence[float] = IMAGE_MEAN,
        std: Sequence[float] = IMAGE_STD,
        bgr_to_rgb: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(mean, std, bgr_to_rgb=bgr_to_rgb, **kwargs)


class _FilledWidths:
    """Mixin of a detector: widths that its config leaves out follow the backbone."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**fill_widths(kwargs))


@MODELS.register_module()
class FasterRCNN(_FilledWidths, mmdet_models.FasterRCNN):
    """`mmdet.FasterRCNN` that fills in widths, see `fill_widths`."""


@MODELS.register_module()
class MaskRCNN(_FilledWidths, mmdet_models.MaskRCNN):
    """`mmdet.MaskRCNN` that fills in widths, see `fill_widths`."""


@MODELS.register_module()
class CascadeRCNN(_FilledWidths, mmdet_models.CascadeRCNN):
    """`mmdet.CascadeRCNN` that fills in widths, see `fill_widths`."""


@MODELS.register_module()
class RetinaNet(_FilledWidths, mmdet_models.RetinaNet):
    """`mmdet.RetinaNet` that fills in widths, see `fill_widths`."""


@MODELS.register_module()
class Mask2Former(_FilledWidths, mmdet_models.Mask2Former):
    """`mmdet.Mask2Former` that fills in widths, see `fill_widths`."""


@MODELS.register_module()
class CascadeRoIHead(mmdet_models.CascadeRoIHead):
    """`mmdet.CascadeRoIHead` with a single mask head, as detectron2 has it.

    The mask head learns from the proposals of the first stage. `test_cfg` may have
    `mask_rescoring=True`: masks are then ranked by the score of their box times the mean probability
    of their pixels.
    """

    def init_mask_head(self, mask_roi_extractor: dict[str, Any], mask_head: dict[str, Any]) -> None:
        """Build the mask head and its extractor."""
        self.share_roi_extractor = False
        self.mask_roi_extractor = MODELS.build(mask_roi_extractor)
        self.mask_head = MODELS.build(mask_head)

    def _mask_forward(self, stage: int, x: tuple[Tensor], rois: Tensor) -> dict[str, Tensor]:
        extractor = self.mask_roi_extractor
        features = extractor(x[: extractor.num_inputs], rois)
        return {"mask_preds": self.mask_head(features)}

    def mask_loss(
        self, stage: int, x: tuple[Tensor], sampling_results: Items, batch_gt_instances: Items
    ) -> dict[str, Any]:
        """Loss of the mask head, of the first stage only."""
        if stage > 0:
            return {"loss_mask": {}}
        rois = bbox2roi([result.pos_priors for result in sampling_results])
        results = self._mask_forward(stage, x, rois)
        return results | self.mask_head.loss_and_target(
            mask_preds=results["mask_preds"],
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg[stage],
        )

    def predict_mask(
        self, x: tuple[Tensor], batch_img_metas: Items, results_list: Items, rescale: bool = False
    ) -> Items:
        """Add masks to the boxes, and scores of the masks with `mask_rescoring`."""
        rois = bbox2roi([result.bboxes for result in results_list])
        if not len(rois):
            return empty_instances(
                batch_img_metas,
                rois.device,
                task_type="mask",
                instance_results=results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary,
            )
        masks = self._mask_forward(0, x, rois)["mask_preds"].split([len(r) for r in results_list])
        if self.test_cfg.get("mask_rescoring"):
            for result, logits in zip(results_list, masks, strict=True):
                result.mask_scores = result.scores * _mean_inside(logits, result.labels)
        return self.mask_head.predict_by_feat(
            mask_preds=masks,
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
        )


def _mean_inside(logits_NChw: Tensor, labels_N: Tensor) -> Tensor:
    """Mean probability of the pixels that each mask covers; 0 for a mask that covers none."""
    classes_N = labels_N if logits_NChw.shape[1] > 1 else 0
    probabilities = logits_NChw[torch.arange(len(labels_N)), classes_N].sigmoid()
    inside = probabilities > 0.5
    return (probabilities * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
