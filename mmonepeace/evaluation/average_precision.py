"""Mean average precision of several labels per item.

Shapes: N items, C classes, P positives of a class.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from mmonepeace.evaluation.sample_fields import class_names, read_scores, read_vector
from mmonepeace.registry import METRICS

EmptyClasses = Literal["leave_out", "zero"]
_NAMED = 5  # classes that are named in the log


@METRICS.register_module()
class MeanAveragePrecision(BaseMetric):
    """Mean over the classes of their average precision, `mAP`, in per cent, beside its chance level.

    A data sample has `pred_score` (C,), and `gt_score` (C,) of 0 and 1. Scores are ranked as they
    are, in float32: give logits. Their sigmoid has ties above 17, in bfloat16 above 6, which the
    official evaluation of FSD50K counts; its figures differ in the third digit.

    A class without positives has no average precision. By default it is left out of the mean, and
    named in the log. If no class has positives, the mean is NaN. `mAP_chance` is the mean over the
    same classes of their fraction of positives: what a random order of many items has.

    Args:
        empty_classes: "leave_out" leaves classes without positives out of the mean; "zero" counts
            them as 0, as scikit-learn and the official evaluation do.
        kwargs: of `BaseMetric`.

    Raises:
        ValueError: if a field is missing or of another shape, a score is NaN, or `gt_score` has
            something else than 0 and 1.
    """

    default_prefix = "multilabel"

    def __init__(self, empty_classes: EmptyClasses = "leave_out", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if empty_classes not in get_args(EmptyClasses):
            choices = ", ".join(get_args(EmptyClasses))
            raise ValueError(f"empty_classes is {empty_classes!r}; choose from {choices}.")
        self.empty_classes = empty_classes

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep scores and labels of each sample."""
        for sample in data_samples:
            score_C = read_scores(sample)
            class_names(self, len(score_C))  # the same number for all samples
            truth_C = read_vector(sample, "gt_score", len(score_C))
            others = truth_C[(truth_C != 0) & (truth_C != 1)]
            if len(others):
                raise ValueError(
                    f"gt_score has {float(others[0]):g}; expected 0 and 1. For soft targets, such as "
                    "confidences of answers, use VQAAccuracy."
                )
            self.results.append((score_C, truth_C.bool()))

    def compute_metrics(self, results: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """`mAP` and `mAP_chance`."""
        score_NC, is_positive_NC = (torch.stack(x) for x in zip(*results, strict=True))
        precision_C = torch.tensor(
            [
                average_precision(score_N, is_positive_N)
                for score_N, is_positive_N in zip(score_NC.t(), is_positive_NC.t(), strict=True)
            ],
            dtype=torch.float64,
        )
        prevalence_C = is_positive_NC.double().mean(0)
        is_empty_C = prevalence_C == 0
        if is_empty_C.any():
            self._log(is_empty_C)
        counted_C = ~is_empty_C
        if self.empty_classes == "zero" and counted_C.any():
            counted_C[:] = True
            precision_C[is_empty_C] = 0
        return {
            "mAP": 100 * precision_C[counted_C].mean().item(),
            "mAP_chance": 100 * prevalence_C[counted_C].mean().item(),
        }

    def _log(self, is_empty_C: Tensor) -> None:
        names = class_names(self, len(is_empty_C))
        empty = [
            name for name, is_empty in zip(names, is_empty_C.tolist(), strict=True) if is_empty
        ]
        listed = ", ".join(empty[:_NAMED]) + ", ..." * (len(empty) > _NAMED)
        how = {
            "leave_out": "left out of mAP (scikit-learn counts 0: empty_classes='zero')",
            "zero": "counted as 0 in mAP",
        }[self.empty_classes]
        print_log(
            f"{len(empty):,} of {len(names):,} classes have no positives and are {how}: {listed}",
            logger="current",
        )


def average_precision(score_N: Tensor, is_positive_N: Tensor) -> float:
    """Average precision of one class, from 0 to 1; NaN without positives.

    The sum over the different scores, from the highest, of the precision of all items with at least
    that score, times the increase of recall: step-wise, without interpolation, and ties count as
    one step, so that the order of items does not matter.

    Args:
        score_N: a score of each item, without NaN.
        is_positive_N: booleans.

    Source: the definition of scikit-learn's `average_precision_score`.
    """
    ascending_N = score_N.sort().values
    score_P = score_N[is_positive_N].sort().values  # the same precision for all of a tie
    retrieved_P = len(ascending_N) - torch.searchsorted(ascending_N, score_P)
    correct_P = len(score_P) - torch.searchsorted(score_P, score_P)
    return (correct_P.double() / retrieved_P).mean().item()
