"""Broken samples: counted, reported once each, and the end of a run that has too many."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmonepeace.console import printable
from mmonepeace.datasets.sample_errors import KINDS, SampleError, reason
from mmonepeace.exit_status import UserError
from mmonepeace.registry import HOOKS

MIN_SEEN = 1000  # samples; a fraction of fewer says little
NONE_WORKS = 10  # samples that all fail in a way no file does: the pipeline is wrong


LEFT_OUT = "left_out"  # metadata of a sample in place of another: scores are made without it


class TooManyBrokenError(UserError):
    """More broken samples than `max_broken` allows."""

    def __init__(self, message: str) -> None:
        # The message of a worker of a data loader is its whole traceback.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class BrokenSamples:
    """State of each sample of a data set, one byte each, in memory that workers share.

    `max_broken` is the fraction of the samples seen so far (of at least a thousand, or all) that
    may be broken. One may always be, unless it is 0.

    Raises:
        ValueError: for a fraction below 0 or not below 1.
    """

    def __init__(self, total: int, max_broken: float) -> None:
        if not 0 <= max_broken < 1:
            raise ValueError(f"max_broken is {max_broken}, expected a fraction from 0 to below 1.")
        self.max_broken = max_broken
        self._states = torch.zeros(total, dtype=torch.uint8).share_memory_()  # 0: not seen

    @property
    def seen(self) -> int:
        """Number of samples that have been read at least once, by all workers."""
        return int(self._states.count_nonzero())

    @property
    def kinds(self) -> dict[int, str]:
        """Index of each broken sample that a worker has met -> its kind."""
        broken = (self._states > 1).nonzero()[:, 0]
        states = self._states[broken].tolist()
        return {i: KINDS[state - 2] for i, state in zip(broken.tolist(), states, strict=True)}

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> number of broken samples, of the kinds that there are."""
        return _count(self.kinds)

    def __contains__(self, index: int) -> bool:
        return bool(self._states[index] > 1)

    def add_usable(self, index: int) -> None:
        """Note that a sample is not broken."""
        self._states[index] = 1

    def add(self, index: int, error: Exception, name: Callable[[int], str]) -> None:
        """Note that a sample is broken, whatever its pipeline raised, and log it the first time.

        `name` gives what a message calls the sample of an index.

        Raises:
            TooManyBrokenError: if there are now too many, or none of the first samples has worked,
                for a reason that is not in the files.
        """
        if index in self:
            return
        kind, said = "other", reason(error)
        if isinstance(error, SampleError):
            kind, said = error.kind, str(error)
        self._states[index] = 2 + KINDS.index(kind)
        print_log(printable(f"broken sample {name(index)}: {said}"), "current", logging.WARNING)
        kinds, seen = self.kinds, self.seen
        first = ", ".join(map(name, list(kinds)[:5]))
        allowed = self.max_broken * max(seen, min(len(self._states), MIN_SEEN))
        all_are = len(kinds) == len(self._states)  # even if there is one
        if all_are or len(kinds) > (max(1, allowed) if self.max_broken else 0):
            raise TooManyBrokenError(
                f"{len(kinds)} of {seen} samples seen are broken ({count_kinds(kinds)}), more than "
                f"max_broken={self.max_broken} allows. The first: {first}. The last error: {said} "
                "Fix them, leave them out, or raise max_broken."
            )
        if seen >= NONE_WORKS and list(kinds.values()).count("other") == seen:
            raise TooManyBrokenError(
                f"all of the first {seen} samples fail: {said} The first: {first}. Correct the "
                "pipeline, or its files."
            )


def mark_left_out(sample: Any) -> None:
    """Mark a sample with `data_samples` that is in place of another."""
    samples: Any = sample.get("data_samples") if isinstance(sample, dict) else None
    for each in samples if isinstance(samples, list) else [samples]:  # a list with augmentations
        if hasattr(each, "set_metainfo"):
            each.set_metainfo({LEFT_OUT: True})


@HOOKS.register_module()
class BrokenSamplesHook(Hook):
    """Log the number of broken training samples as `broken`, and kinds after training, val and test.

    Every `interval` iterations, it counts those that all workers of all processes have met since
    the run started or resumed.
    """

    priority = "NORMAL"  # before LoggerHook

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Log the number at each interval."""
        if self.every_n_train_iters(runner, self.interval):
            kinds = gather_kinds(runner.train_dataloader)
            if kinds is not None:
                runner.message_hub.update_scalar("train/broken", len(kinds))

    def after_train(self, runner: Runner) -> None:
        """Log the kinds."""
        self._report(runner, runner.train_dataloader, "")

    def after_val(self, runner: Runner) -> None:
        """Log the kinds."""
        self._report(runner, runner.val_dataloader, " of val")

    def after_test(self, runner: Runner) -> None:
        """Log the kinds."""
        self._report(runner, runner.test_dataloader, " of test")

    def _report(self, runner: Runner, loader: Any, where: str) -> None:
        leaves_out = [hasattr(leaf, "leaves_out") for leaf in data_sets_that_count(loader.dataset)]
        kinds = gather_kinds(loader) or {}
        # LeftOutHook tells of those that scores are made without.
        kinds = {at: kind for at, kind in kinds.items() if not (where and leaves_out[at[0]])}
        if kinds:
            runner.logger.warning(
                f"{len(kinds)} broken samples{where} were replaced: {count_kinds(kinds)}."
            )


def data_sets_that_count(dataset: Any) -> Iterator[Any]:
    """The data sets with a `broken` inside a data set, or it itself."""
    own = getattr(dataset, "__dict__", {})
    if "broken" in own:
        yield dataset
        return
    inner = own.get("datasets") or [own[name] for name in ("dataset",) if name in own]
    for each in inner:
        yield from data_sets_that_count(each)


def gather_kinds(loader: Any) -> dict[tuple[int, int], str] | None:
    """(data set, index) -> kind of the broken samples of all processes; None without a count."""
    leaves = list(data_sets_that_count(loader.dataset))
    if not leaves:
        return None
    own = {(n, i): kind for n, leaf in enumerate(leaves) for i, kind in leaf.broken.kinds.items()}
    # Over several epochs, more than one process may meet the same sample.
    return {at: kind for kinds in all_gather_object(own) for at, kind in kinds.items()}


def _count(kinds: Mapping[Any, str]) -> dict[str, int]:
    """Kind -> number of samples, in the order of `KINDS`."""
    counts = Counter(kinds.values())
    return {kind: counts[kind] for kind in KINDS if kind in counts}


def count_kinds(kinds: Mapping[Any, str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in _count(kinds).items())
