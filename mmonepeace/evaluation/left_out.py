"""Scores without the samples that cannot be read, which their data set has replaced and marked."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmonepeace.console import printable
from mmonepeace.datasets.broken_samples import (
    LEFT_OUT,
    count_kinds,
    data_sets_that_count,
    gather_kinds,
)
from mmonepeace.registry import HOOKS

_NAMED = 5  # images that are named beside the scores
_PLACE = "an image was left out here"  # processes gather their results in the order of the images


@HOOKS.register_module()
class LeftOutHook(Hook):
    """Let metrics pass over the samples that could not be read, and name them below the scores.

    The scores of a run without such samples do not change. Otherwise `left_out` is their number.
    """

    priority = "NORMAL"  # before LoggerHook

    def before_val(self, runner: Runner) -> None:
        """Prepare the metrics of validation."""
        _prepare(runner.val_evaluator.metrics)

    def before_test(self, runner: Runner) -> None:
        """Prepare the metrics of a test."""
        _prepare(runner.test_evaluator.metrics)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Count what was left out."""
        _count(runner, runner.val_dataloader, "val")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Count what was left out."""
        _count(runner, runner.test_dataloader, "test")

    def after_val(self, runner: Runner) -> None:
        """Name what was left out."""
        _tell(runner, runner.val_dataloader, "val")

    def after_test(self, runner: Runner) -> None:
        """Name what was left out."""
        _tell(runner, runner.test_dataloader, "test")


def _left_out(loader: Any) -> dict[str, str]:
    """Name -> kind of the samples of a loader that scores are made without."""
    leaves = list(data_sets_that_count(loader.dataset))
    kinds = gather_kinds(loader) or {}
    return {
        leaves[number].name(index): kind
        for (number, index), kind in kinds.items()
        if hasattr(leaves[number], "leaves_out")
    }


def _count(runner: Runner, loader: Any, split: str) -> None:
    if number := len(_left_out(loader)):
        runner.message_hub.update_scalar(f"{split}/left_out", number)


def _tell(runner: Runner, loader: Any, split: str) -> None:
    left_out = _left_out(loader)
    if left_out:
        names = ", ".join(list(left_out)[:_NAMED]) + ", ..." * (len(left_out) > _NAMED)
        runner.logger.info(  # a warning would be logged once
            printable(
                f"{len(left_out):,} of {len(loader.dataset):,} samples left out of the scores of "
                f"{split}, because they cannot be read ({count_kinds(left_out)}): {names}"
            )
        )


def _prepare(metrics: Sequence[BaseMetric]) -> None:
    for metric in metrics:
        if "process" not in vars(metric):
            _pass_over_marked(metric)


def _pass_over_marked(metric: BaseMetric) -> None:
    process, compute = metric.process, metric.compute_metrics

    def process_others(data_batch: Any, data_samples: Sequence[Any]) -> None:
        marks = _marks(data_batch)
        if not any(marks):
            process(data_batch, data_samples)
            return
        for i, is_marked in enumerate(marks):
            if is_marked:
                metric.results.append(_PLACE)
            else:
                process(_one_of(data_batch, i), data_samples[i : i + 1])

    def compute_of_others(results: list[Any]) -> Any:
        others = [r for r in results if not (isinstance(r, str) and r == _PLACE)]
        if len(others) == len(results):
            return compute(results)
        if not others:
            return {}
        listed = getattr(metric, "img_ids", None)
        if hasattr(metric, "img_ids"):  # of COCO, whose file lists what is left out, too
            metric.img_ids = [truth["img_id"] for truth, _ in others]
        try:
            return compute(others)
        finally:
            if hasattr(metric, "img_ids"):
                metric.img_ids = listed

    vars(metric).update(process=process_others, compute_metrics=compute_of_others)


def _marks(data_batch: Any) -> list[bool]:
    """Whether each sample of a batch is marked."""
    samples = list(data_batch.get("data_samples") or () if isinstance(data_batch, dict) else ())
    if samples and isinstance(samples[0], (list, tuple)):  # a list for each augmentation
        samples = list(samples[0])
    return [hasattr(sample, "get") and bool(sample.get(LEFT_OUT)) for sample in samples]


def _one_of(batch: Any, i: int) -> Any:
    """The batch of one sample of a batch."""
    if isinstance(batch, dict):
        return {key: _one_of(value, i) for key, value in batch.items()}
    if isinstance(batch, list) and batch and isinstance(batch[0], (list, tuple)):
        return [each[i : i + 1] for each in batch]
    return batch[i : i + 1]
