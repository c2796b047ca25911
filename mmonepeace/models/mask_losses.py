"""Losses of predicted masks and their classes: each true mask is matched to one query.

Shapes: B batch, Q queries, C classes, N masks, P points, h x w cells of predictions, H x W pixels.

Source: Mask2Former, arXiv 2112.01527.
"""

from collections.abc import Sequence
from itertools import starmap
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_WORST = 1e6  # cost of a pair that is not a number: such a loss shall be reported, not fail here


class MaskTargets(NamedTuple):
    """The true masks of an image.

    Attributes:
        labels_N: their classes.
        masks_NHW: bool.
    """

    labels_N: Tensor
    masks_NHW: Tensor


class MaskLoss:
    """Cross entropy of classes; binary cross entropy and Dice loss of masks, at sampled points.

    Queries and true masks are matched one to one, so that the sum of these three is least, at points
    drawn uniformly. Queries without a mask shall say "no object". The losses of masks are those of their
    uncertain points, and of others at random.

    Args:
        num_classes: C; logits have one more, "no object".
        class_weight: of the cross entropy of classes.
        mask_weight: of the binary cross entropy of points.
        dice_weight: of the Dice loss.
        no_object_weight: of queries without a mask, in the cross entropy of classes.
        num_points: P.
        oversample_ratio: points among which uncertain ones are found, in P.
        importance_ratio: fraction of P that is uncertain.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ) -> None:
        if num_classes < 1 or num_points < 1 or oversample_ratio < 1:
            raise ValueError(
                f"num_classes is {num_classes}, num_points {num_points} and oversample_ratio "
                f"{oversample_ratio}; expected 1 or more each."
            )
        if not 0 <= importance_ratio <= 1:
            raise ValueError(f"importance_ratio is {importance_ratio}; it must be in [0, 1].")
        self.num_classes = num_classes
        self.weights = {"cls": class_weight, "mask": mask_weight, "dice": dice_weight}
        self.no_object_weight = no_object_weight
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_ratio)

    def __call__(
        self, predictions: Sequence[tuple[Tensor, Tensor]], targets: Sequence[MaskTargets]
    ) -> dict[str, Tensor]:
        """Losses of each prediction, weighted.

        Args:
            predictions: logits of classes (B, Q, C + 1) and of masks (B, Q, h, w), of one block each.
            targets: of each image.

        Returns:
            `loss_cls`, `loss_mask` and `loss_dice` of the last prediction; those of others begin with
            "d0.", "d1." and so on.
        """
        queries = predictions[0][0].shape[1]
        count = predictions[0][1].new_tensor(
            sum(min(len(target.labels_N), queries) for target in targets), dtype=torch.float32
        )
        all_reduce(count, "mean")
        prefixes = [*(f"d{i}." for i in range(len(predictions) - 1)), ""]
        losses = {}
        for prefix, (logits, masks) in zip(prefixes, predictions, strict=True):
            each = self._losses(logits.float(), masks.float(), targets, count.clamp(min=1))
            for (name, weight), loss in zip(self.weights.items(), each, strict=True):
                losses[f"{prefix}loss_{name}"] = weight * loss
        return losses

    def _losses(
        self,
        logits_BQC: Tensor,
        masks_BQhw: Tensor,
        targets: Sequence[MaskTargets],
        count: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one prediction, not weighted; those of masks are sums over masks, divided by `count`."""
        device = logits_BQC.device
        pairs = list(starmap(self.match, zip(logits_BQC, masks_BQhw, targets, strict=True)))
        labels_BQ = torch.full(logits_BQC.shape[:2], self.num_classes, device=device)
        for labels, (queries, matched), target in zip(labels_BQ, pairs, targets, strict=True):
            labels[queries] = target.labels_N[matched]
        class_weight = torch.ones(self.num_classes + 1, device=device)
        class_weight[-1] = self.no_object_weight
        cls = F.cross_entropy(logits_BQC.flatten(0, 1), labels_BQ.flatten(), class_weight)
        masks = torch.cat([m[queries] for m, (queries, _) in zip(masks_BQhw, pairs, strict=True)])
        if not len(masks):  # every parameter must get a gradient, if only zero
            return cls, 0 * masks_BQhw.sum(), 0 * masks_BQhw.sum()
        wanted = [t.masks_NHW[matched] for t, (_, matched) in zip(targets, pairs, strict=True)]
        points_NP2 = self.uncertain_points(masks.detach())
        pred_NP = _at_points(masks[:, None], points_NP2)[:, 0]
        true_NP = _at_points(torch.cat(wanted)[:, None].float(), points_NP2)[:, 0]
        mask = F.binary_cross_entropy_with_logits(pred_NP, true_NP, reduction="none").mean(1).sum()
        pred_NP = pred_NP.sigmoid()
        overlap = (pred_NP * true_NP).sum(1)
        dice = (1 - (2 * overlap + 1) / (pred_NP.sum(1) + true_NP.sum(1) + 1)).sum()
        return cls, mask / count, dice / count

    @torch.no_grad()
    def match(
        self, logits_QC: Tensor, masks_Qhw: Tensor, target: MaskTargets
    ) -> tuple[Tensor, Tensor]:
        """The pairs of an image whose cost is least: (their queries, their true masks)."""
        points_1P2 = torch.rand(1, self.num_points, 2, device=masks_Qhw.device)
        pred_QP = _at_points(masks_Qhw[None], points_1P2)[0]
        true_NP = _at_points(target.masks_NHW[None].float(), points_1P2)[0]
        inside, outside = F.softplus(-pred_QP), F.softplus(pred_QP)
        mask_QN = (inside @ true_NP.t() + outside @ (1 - true_NP).t()) / self.num_points
        pred_QP = pred_QP.sigmoid()
        sums_QN = pred_QP.sum(1, keepdim=True) + true_NP.sum(1)
        dice_QN = 1 - (2 * pred_QP @ true_NP.t() + 1) / (sums_QN + 1)
        cls_QN = -logits_QC.softmax(-1)[:, target.labels_N]
        costs = zip(self.weights.values(), (cls_QN, mask_QN, dice_QN), strict=True)
        cost_QN = sum(weight * cost for weight, cost in costs)
        assert isinstance(cost_QN, Tensor)
        cost_QN = cost_QN.nan_to_num(_WORST, _WORST, -_WORST).cpu()
        queries, matched = (torch.from_numpy(x) for x in linear_sum_assignment(cost_QN))
        return queries.to(masks_Qhw.device), matched.to(masks_Qhw.device)

    def uncertain_points(self, masks_Nhw: Tensor) -> Tensor:
        """Points (N, P, 2), in (0, 1): those of many whose logits are the smallest, and random ones."""
        count, device = len(masks_Nhw), masks_Nhw.device
        points_NK2 = torch.rand(count, self.num_candidates, 2, device=device)
        certainty_NK = _at_points(masks_Nhw[:, None], points_NK2)[:, 0].abs()
        rows_NU = certainty_NK.topk(self.num_uncertain, largest=False).indices
        points_NU2 = points_NK2.gather(1, rows_NU[..., None].expand(-1, -1, 2))
        rest = torch.rand(count, self.num_points - self.num_uncertain, 2, device=device)
        return torch.cat([points_NU2, rest], 1)


def _at_points(maps_NChw: Tensor, points_NP2: Tensor) -> Tensor:
    """Bilinear values (N, C, P) of maps at points (x, y), whose corners are (0, 0) and (1, 1)."""
    if not maps_NChw.shape[1]:
        return maps_NChw.new_zeros(len(maps_NChw), 0, points_NP2.shape[1])
    return F.grid_sample(maps_NChw, 2 * points_NP2[:, :, None] - 1, align_corners=False)[..., 0]
