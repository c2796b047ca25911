"""Losses of the fine-tuned tasks, in float32: a mean over the samples of a batch.

Each has `accuracy`, the number that the official code logs beside it.

Shapes: B samples, C classes or candidates.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.models.losses import check_smoothing, in_full_precision
from mmonepeace.registry import MODELS


@MODELS.register_module()
class ClassLoss(nn.Module):
    """Cross entropy with the class of a sample, or with a distribution over the classes.

    Args:
        label_smoothing: weight that is spread over all classes; not for distributions.

    Source: the official classification criterion.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_smoothing("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    @in_full_precision
    def forward(self, logits_BC: Tensor, target: Tensor) -> Tensor:
        """The loss of (B,) integers or (B, C) probabilities."""
        if target.is_floating_point():
            return F.cross_entropy(logits_BC.float(), target.float())
        return F.cross_entropy(logits_BC.float(), target, label_smoothing=self.label_smoothing)

    @staticmethod
    def accuracy(logits_BC: Tensor, target: Tensor) -> Tensor:
        """Fraction of samples with the right best class; of distributions, the expected one."""
        if target.is_floating_point():
            return (logits_BC.softmax(1) * target).sum(1).mean()
        return (logits_BC.argmax(1) == target).float().mean()


@MODELS.register_module()
class MultiLabelLoss(nn.Module):
    """Binary cross entropy with (B, C) targets in 0..1, summed over the classes.

    Source: the official criterion of VQA and of multi-label classification.
    """

    @in_full_precision
    def forward(self, logits_BC: Tensor, target_BC: Tensor) -> Tensor:
        """The loss of (B, C) targets."""
        losses = F.binary_cross_entropy_with_logits(
            logits_BC.float(), target_BC.float(), reduction="none"
        )
        return losses.sum(1).mean()

    @staticmethod
    def accuracy(logits_BC: Tensor, target_BC: Tensor) -> Tensor:
        """Mean target of the best class: of answers, the official score of VQA."""
        return target_BC.gather(1, logits_BC.argmax(1, keepdim=True)).mean()


@MODELS.register_module()
class HingeLoss(nn.Module):
    """What candidates lack to be `margin` below the right one, summed over the candidates.

    As in the official code, the right one is among them: it adds `margin`, without a gradient.

    Source: the official criterion of audio question answering.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    @in_full_precision
    def forward(self, scores_BC: Tensor, right_B: Tensor) -> Tensor:
        """The loss of (B,) integers, the right candidates."""
        scores_BC = scores_BC.float()
        right_B1 = scores_BC.gather(1, right_B[:, None])
        return (self.margin + scores_BC - right_B1).clamp(min=0).sum(1).mean()

    accuracy = staticmethod(ClassLoss.accuracy)


@in_full_precision
def box_losses(boxes_B4: Tensor, target_B4: Tensor) -> tuple[Tensor, Tensor]:
    """L1 loss, summed over the corners, and generalised IoU loss of boxes.

    Args:
        boxes_B4: predicted corners x0, y0, x1, y1 in any unit.
        target_B4: the true ones, with x0 < x1 and y0 < y1.

    Returns:
        means over the samples; that of the second is over those whose predicted corners are in
        order, 0 if there are none. Officially it is then NaN, but adds nothing to the gradient.

    Source: the official grounding criterion; Rezatofighi et al., Generalized Intersection over
    Union (2019).
    """
    boxes_B4, target_B4 = boxes_B4.float(), target_B4.float()
    l1 = (boxes_B4 - target_B4).abs().sum(1).mean()
    in_order = (boxes_B4[:, :2] < boxes_B4[:, 2:]).all(1)
    # No indexing, whose size a GPU would have to tell: the true box stands in for the others.
    boxes_B4 = torch.where(in_order[:, None], boxes_B4, target_B4)
    loss_B = torch.where(in_order, 1 - _generalised_iou(boxes_B4, target_B4), 0)
    return l1, loss_B.sum() / in_order.sum().clamp(min=1)


def _generalised_iou(a_B4: Tensor, b_B4: Tensor) -> Tensor:
    """(B,) of boxes whose corners are in order."""

    def area(low_B2: Tensor, high_B2: Tensor) -> Tensor:
        return (high_B2 - low_B2).clamp(min=0).prod(1)

    (a_low, a_high), (b_low, b_high) = a_B4.split(2, 1), b_B4.split(2, 1)
    both = area(torch.maximum(a_low, b_low), torch.minimum(a_high, b_high))
    either = area(a_low, a_high) + area(b_low, b_high) - both
    around = area(torch.minimum(a_low, b_low), torch.maximum(a_high, b_high))
    least = torch.finfo(both.dtype).eps ** 2  # of areas in units of the image, or of pixels
    return both / either.clamp(min=least) - (around - either) / around.clamp(min=least)
