"""Accuracy of one class per item: a metric, and a report per class.

Of equal scores, the first class counts as the higher one, as for `argmax`.

Shapes: N items, C classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.evaluator import BaseMetric

from mmonepeace.console import table
from mmonepeace.evaluation.sample_fields import read_integer, read_scores
from mmonepeace.registry import METRICS

WORST_CLASSES, CONFUSIONS = 20, 10  # lines of a report


class Evaluation(NamedTuple):
    """How well predictions agree with labels; accuracies are fractions."""

    top1: float  # items whose most probable class is the label
    top5: float | None  # whose label is among the five most probable; None for up to five classes
    mean: float  # mean over the classes that occur of their top-1 accuracy
    chance: float  # top-1 accuracy of a random guess
    majority: float  # top-1 accuracy of always predicting the most frequent class
    classes: dict[str, tuple[int, int]]  # name -> (correct, total), for classes that occur
    confusions: list[tuple[str, str, int]]  # (label, prediction, count), most frequent first

    @property
    def items(self) -> int:
        """How many there are."""
        return sum(total for _, total in self.classes.values())

    def report(self) -> str:
        """A text with the accuracies, the worst classes and the most frequent confusions."""
        top5 = "" if self.top5 is None else f", top-5 {self.top5:.2%}"
        lines = [
            f"top-1 {self.top1:.2%}{top5}, mean over classes {self.mean:.2%}",
            f"for comparison: a random guess {self.chance:.2%}, the most frequent class {self.majority:.2%}",
        ]
        worst = sorted(self.classes.items(), key=lambda c: (c[1][0] / c[1][1], -c[1][1]))
        rows = [(name, f"{good / n:.1%}", good, n) for name, (good, n) in worst[:WORST_CLASSES]]
        lines += ["", table(("class", "top-1", "right", "of"), rows, "lrrr")]
        if len(worst) > len(rows):
            lines.append(f"... and {len(worst) - len(rows):,} better ones")
        if self.confusions:
            confusions = self.confusions[:CONFUSIONS]
            lines += ["", table(("was", "taken for", "times"), confusions, "llr")]
        return "\n".join(lines)


def evaluate(
    probabilities: np.ndarray, labels: Sequence[str], classes: Sequence[str]
) -> Evaluation:
    """Compare predictions with labels.

    Args:
        probabilities: (N, C), from `ZeroShotClassifier.predict`, without NaN rows.
        labels: N of the class names.
        classes: C names.

    Raises:
        ValueError: if there are no items, a row is NaN, or a label is not a class.
    """
    unknown = sorted(set(labels) - set(classes))
    if unknown or not len(probabilities) or np.isnan(probabilities).any():
        raise ValueError(
            f"{len(probabilities)} predictions, with NaN or without; labels that are not classes: "
            f"{', '.join(unknown[:5]) or 'none'}. Expected readable items with labels out of the "
            f"{len(classes)} classes."
        )
    class_index = {name: i for i, name in enumerate(classes)}
    label_N = np.array([class_index[label] for label in labels])
    ranked_NC = np.argsort(-probabilities, axis=1, kind="stable")
    predicted_N = ranked_NC[:, 0]
    correct_N = predicted_N == label_N
    among_five_N = (ranked_NC[:, :5] == label_N[:, None]).any(1)
    totals = Counter(labels)
    per_class = {
        name: (int(correct_N[label_N == i].sum()), totals[name])
        for name, i in class_index.items()
        if name in totals
    }
    confused = zip(label_N[~correct_N], predicted_N[~correct_N], strict=True)
    confusions = Counter((classes[label], classes[prediction]) for label, prediction in confused)
    return Evaluation(
        top1=float(correct_N.mean()),
        top5=float(among_five_N.mean()) if len(classes) > 5 else None,
        mean=float(np.mean([correct / total for correct, total in per_class.values()])),
        chance=1 / len(classes),
        majority=max(totals.values()) / len(labels),
        classes=per_class,
        confusions=[(*pair, count) for pair, count in confusions.most_common()],
    )


def pool(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of the items of several ones together, of the same classes."""

    def mean_of(values: Sequence[float]) -> float:
        return float(np.average(values, weights=[e.items for e in evaluations]))

    counts: dict[str, tuple[int, int]] = {}
    confusions: Counter[tuple[str, str]] = Counter()
    for evaluation in evaluations:
        for name, (correct, total) in evaluation.classes.items():
            before = counts.get(name, (0, 0))
            counts[name] = before[0] + correct, before[1] + total
        for label, prediction, count in evaluation.confusions:
            confusions[label, prediction] += count
    top5 = [e.top5 for e in evaluations if e.top5 is not None]
    totals = [total for _, total in counts.values()]
    return Evaluation(
        top1=mean_of([e.top1 for e in evaluations]),
        top5=mean_of(top5) if top5 else None,
        mean=float(np.mean([correct / total for correct, total in counts.values()])),
        chance=evaluations[0].chance,
        majority=max(totals) / sum(totals),
        classes=counts,
        confusions=[(*pair, count) for pair, count in confusions.most_common()],
    )


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Percentage of samples whose label is among the K highest scores, `topK`, beside its chance level.

    For classes of images and audio, statements about two images, and candidate answers. A data
    sample has `pred_score` (C,), logits or probabilities, and `gt_label`, the index of its class or
    candidate. C may differ between samples. `topK_chance` is the mean of K / C.

    Args:
        topk: values of K.
        kwargs: of `BaseMetric`.

    Raises:
        ValueError: if a field is missing or of another shape, a score is NaN, or a label is not a
            class.
    """

    default_prefix = "accuracy"

    def __init__(self, topk: Sequence[int] = (1,), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rank of the label, from 0, and C of each sample."""
        for sample in data_samples:
            score_C, label = read_scores(sample), read_integer(sample, "gt_label")
            if not 0 <= label < len(score_C):
                raise ValueError(
                    f"gt_label is {label}, but pred_score has {len(score_C)} classes, 0 to "
                    f"{len(score_C) - 1}. Correct num_classes of the head, or the labels."
                )
            above = (score_C > score_C[label]).sum() + (score_C[:label] == score_C[label]).sum()
            self.results.append((int(above), len(score_C)))

    def compute_metrics(self, results: Sequence[tuple[int, int]]) -> dict[str, float]:
        """`topK` and `topK_chance`."""
        rank_N, classes_N = np.array(results).T
        metrics = {}
        for k in self.topk:
            metrics[f"top{k}"] = 100 * float((rank_N < k).mean())
            metrics[f"top{k}_chance"] = 100 * float(np.minimum(k / classes_N, 1).mean())
        return metrics
