"""Broken samples: found, counted, named once, and an end to the run if they are too many."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmonepeace.datasets.audio_io import AudioError
from mmonepeace.datasets.image_io import ImageError
from mmonepeace.registry import HOOKS

FEW = 1000  # samples; a share of fewer says little


class CaptionError(ValueError):
    """A text that cannot be used. The message names the finding and the fix."""


class MissingError(ValueError):
    """A file, or a member of a shard, that is not there."""


KINDS = {MissingError: "missing", ImageError: "image", CaptionError: "text", AudioError: "audio"}
SAMPLE_ERRORS = tuple(KINDS)  # what a data set catches


class TooManyBrokenError(RuntimeError):
    """More broken samples than `max_broken` allows."""


class BrokenSamples:
    """What is known of each sample of a data set, one byte each, in memory that workers share.

    Args:
        total: number of samples.
        max_share: of the samples seen so far (of at least a thousand, or all) that may be broken.

    Raises:
        ValueError: for a share outside 0..1, 1 excluded.
    """

    def __init__(self, total: int, max_share: float) -> None:
        if not 0 <= max_share < 1:
            raise ValueError(f"max_broken is {max_share}, expected a share from 0 to below 1.")
        self.max_share = max_share
        self._states = torch.zeros(total, dtype=torch.uint8).share_memory_()  # 0: not seen

    @property
    def seen(self) -> int:
        """Number of samples that have been read at least once, by all workers."""
        return int(self._states.count_nonzero())

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> number of broken samples that all workers have found, where there are any."""
        return _count(self.found)

    @property
    def found(self) -> dict[int, str]:
        """Broken sample -> its kind, of all workers."""
        kinds = list(KINDS.values())
        broken = (self._states > 1).nonzero()[:, 0]
        states = self._states[broken].tolist()
        return {i: kinds[state - 2] for i, state in zip(broken.tolist(), states, strict=True)}

    def __contains__(self, index: int) -> bool:
        return bool(self._states[index] > 1)

    def add_usable(self, index: int) -> None:
        """Note that a sample is in order."""
        self._states[index] = 1

    def add(self, index: int, error: Exception, name: Callable[[int], str]) -> None:
        """Note that a sample is broken, and say so the first time.

        Args:
            index: the sample.
            error: one of `SAMPLE_ERRORS`.
            name: sample -> what a message calls it.

        Raises:
            TooManyBrokenError: if it is one too many.
        """
        if index in self:
            return
        self._states[index] = 2 + list(KINDS).index(type(error))
        print_log(f"broken sample {name(index)}: {error}", "current", logging.WARNING)
        found, seen = self.found, self.seen
        if len(found) > self.max_share * max(seen, min(len(self._states), FEW)):
            raise TooManyBrokenError(
                f"{len(found)} of {seen} samples seen are broken ({_listed(found)}), more than "
                f"max_broken={self.max_share} allows. The first: "
                f"{', '.join(map(name, list(found)[:5]))}. Mend them, leave them out, or raise "
                "max_broken."
            )


@HOOKS.register_module()
class BrokenSamplesHook(Hook):
    """Log the number of broken training samples as `broken`, and their kinds after the training.

    It counts what all workers of all processes have found since the run began or was resumed.

    Args:
        interval: number of iterations from one count to the next.
    """

    priority = "NORMAL"  # before LoggerHook

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Count, now and then."""
        if self.every_n_train_iters(runner, self.interval):
            found = _found_by_all(runner)
            if found is not None:
                runner.message_hub.update_scalar("train/broken", len(found))

    def after_train(self, runner: Runner) -> None:
        """Say what was found."""
        found = _found_by_all(runner)
        if found:
            runner.logger.warning(f"{len(found)} broken samples were replaced: {_listed(found)}.")


def _found_by_all(runner: Runner) -> dict[int, str] | None:
    """Broken sample -> its kind, of all processes; None if the data set does not count."""
    broken = getattr(runner.train_dataloader.dataset, "broken", None)
    if broken is None:
        return None
    # In the course of epochs, several processes may find the same sample.
    return {i: kind for part in all_gather_object(broken.found) for i, kind in part.items()}


def _count(found: dict[int, str]) -> dict[str, int]:
    """Kind -> number, in the order of `KINDS`."""
    numbers = Counter(found.values())
    return {kind: numbers[kind] for kind in KINDS.values() if kind in numbers}


def _listed(found: dict[int, str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in _count(found).items())
