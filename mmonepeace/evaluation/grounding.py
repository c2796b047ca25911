"""Accuracy of boxes that a phrase refers to."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmonepeace.evaluation.sample_fields import read_vector
from mmonepeace.registry import METRICS


@METRICS.register_module()
class GroundingAccuracy(BaseMetric):
    """Percentage of samples whose box has enough intersection over union with the true one.

    A data sample has `pred_box` and `gt_box`, (4,) each: corners x0, y0, x1, y1 in pixels of the
    original image. A prediction that is empty or inverted is wrong, and its IoU is 0; so is one with
    NaN or infinity, which is counted as well.

    Metrics, in per cent: `accuracy@0.5`, by the threshold, and `mean_iou`. If there are any,
    `not_finite` is the number of predictions with NaN or infinity.

    Args:
        iou_threshold: from which IoU on a box is right.
        official_bf16: compute as the official evaluation does, to meet published figures: true
            corners (multiples of 2 pixels beyond 256, of 4 beyond 512), resize ratio, prediction,
            areas and their sums in bfloat16. The ratio counts for samples that have
            `scale_factor`, (width, height) of the resized image over those of the original one.
        kwargs: of `BaseMetric`.

    Raises:
        ValueError: if a field is missing or of another shape, or `gt_box` has no area.
    """

    default_prefix = "grounding"

    def __init__(
        self, iou_threshold: float = 0.5, official_bf16: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < iou_threshold <= 1:
            raise ValueError(
                f"iou_threshold is {iou_threshold}; expected a number above 0, up to 1."
            )
        self.iou_threshold = iou_threshold
        self.official_bf16 = official_bf16

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the IoU of each sample; NaN for a prediction that is not finite."""
        for sample in data_samples:
            box, truth = read_vector(sample, "pred_box", 4), read_vector(sample, "gt_box", 4)
            if not truth.isfinite().all() or not (truth[:2] < truth[2:]).all():
                raise ValueError(
                    f"gt_box is {truth.tolist()}; expected x0 < x1 and y0 < y1, in pixels. Correct "
                    "region_coord in the table."
                )
            if self.official_bf16:
                box, truth = _to_official(box, sample), truth.bfloat16()
            iou = box_iou(box, truth) if box.isfinite().all() else torch.nan
            self.results.append(iou)

    def compute_metrics(self, results: Sequence[float]) -> dict[str, float]:
        """`accuracy@THRESHOLD`, `mean_iou`, and `not_finite` if there are any."""
        iou_N = torch.tensor(results, dtype=torch.float32)
        metrics = {
            f"accuracy@{self.iou_threshold:g}": 100
            * (iou_N >= self.iou_threshold).double().mean().item(),
            "mean_iou": 100 * iou_N.nan_to_num().double().mean().item(),
        }
        if not_finite := int(iou_N.isnan().sum()):
            print_log(
                f"{not_finite:,} of {len(iou_N):,} predicted boxes have NaN or infinity and count as "
                "wrong. The model diverged or overflows.",
                logger="current",
            )
            metrics["not_finite"] = not_finite
        return metrics


def box_iou(box: Tensor, truth: Tensor) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1; 0 if they do not overlap.

    Areas and their sums are computed in the boxes' dtype, the quotient in float32, as the official
    code does. `truth` has an area; `box` may be anything finite.
    """
    low, high = torch.maximum(box[:2], truth[:2]), torch.minimum(box[2:], truth[2:])
    if not (low < high).all():
        return 0.0
    intersection = (high - low).prod()
    union = (box[2:] - box[:2]).prod() + (truth[2:] - truth[:2]).prod() - intersection
    return (intersection.float() / union.float()).item()


def _to_official(box: Tensor, sample: Mapping[str, Any]) -> Tensor:
    """A prediction in bfloat16, from pixels of the model's input by a ratio in bfloat16."""
    if sample.get("scale_factor") is None:
        return box.bfloat16()
    ratio = read_vector(sample, "scale_factor", 2).repeat(2)
    return (box * ratio).bfloat16() / ratio.bfloat16()
