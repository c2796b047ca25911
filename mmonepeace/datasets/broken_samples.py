"""Broken samples: counted, reported once each, and the end of a run that has too many."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmonepeace.datasets.audio_io import AudioError
from mmonepeace.datasets.image_io import ImageError
from mmonepeace.registry import HOOKS

MIN_SEEN = 1000  # samples; a fraction of fewer says little


class CaptionError(ValueError):
    """A text that cannot be used. The message gives the problem and the fix."""


class MissingError(ValueError):
    """A file, or a member of a shard, that does not exist."""


KINDS = {MissingError: "missing", ImageError: "image", CaptionError: "text", AudioError: "audio"}
SAMPLE_ERRORS = tuple(KINDS)  # what a data set catches


class TooManyBrokenError(RuntimeError):
    """More broken samples than `max_broken` allows."""


class BrokenSamples:
    """State of each sample of a data set, one byte each, in memory that workers share.

    `max_broken` is the fraction of the samples seen so far (of at least a thousand, or all) that
    may be broken.

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
        kinds = list(KINDS.values())
        broken = (self._states > 1).nonzero()[:, 0]
        states = self._states[broken].tolist()
        return {i: kinds[state - 2] for i, state in zip(broken.tolist(), states, strict=True)}

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> number of broken samples, of the kinds that there are."""
        return _count(self.kinds)

    def __contains__(self, index: int) -> bool:
        return bool(self._states[index] > 1)

    def add_usable(self, index: int) -> None:
        """Note that a sample is not broken."""
        self._states[index] = 1

    def add(self, index: int, error: ValueError, name: Callable[[int], str]) -> None:
        """Note that a sample is broken, by one of `SAMPLE_ERRORS`, and log it the first time.

        `name` gives what a message calls the sample of an index.

        Raises:
            TooManyBrokenError: if there are now too many.
        """
        if index in self:
            return
        self._states[index] = 2 + list(KINDS).index(type(error))
        print_log(f"broken sample {name(index)}: {error}", "current", logging.WARNING)
        kinds, seen = self.kinds, self.seen
        if len(kinds) > self.max_broken * max(seen, min(len(self._states), MIN_SEEN)):
            raise TooManyBrokenError(
                f"{len(kinds)} of {seen} samples seen are broken ({_listed(kinds)}), more than "
                f"max_broken={self.max_broken} allows. The first: "
                f"{', '.join(map(name, list(kinds)[:5]))}. Fix them, leave them out, or raise "
                "max_broken."
            )


@HOOKS.register_module()
class BrokenSamplesHook(Hook):
    """Log the number of broken training samples as `broken`, and their kinds after training.

    Every `interval` iterations, it counts those that all workers of all processes have met since
    the run started or resumed.
    """

    priority = "NORMAL"  # before LoggerHook

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Log the number at each interval."""
        if self.every_n_train_iters(runner, self.interval):
            kinds = _gather_kinds(runner)
            if kinds is not None:
                runner.message_hub.update_scalar("train/broken", len(kinds))

    def after_train(self, runner: Runner) -> None:
        """Log the kinds."""
        if kinds := _gather_kinds(runner):
            runner.logger.warning(f"{len(kinds)} broken samples were replaced: {_listed(kinds)}.")


def _gather_kinds(runner: Runner) -> dict[int, str] | None:
    """Index -> kind of the broken samples of all processes; None if the data set has no count."""
    broken = getattr(runner.train_dataloader.dataset, "broken", None)
    if broken is None:
        return None
    # Over several epochs, more than one process may meet the same sample.
    return {i: kind for kinds in all_gather_object(broken.kinds) for i, kind in kinds.items()}


def _count(kinds: Mapping[int, str]) -> dict[str, int]:
    """Kind -> number of samples, in the order of `KINDS`."""
    counts = Counter(kinds.values())
    return {kind: counts[kind] for kind in KINDS.values() if kind in counts}


def _listed(kinds: Mapping[int, str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in _count(kinds).items())
