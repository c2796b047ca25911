"""Broken samples: found, counted, named once, and an end to the run if they are too many."""

import logging
from collections.abc import Callable

import torch
from mmengine.logging import print_log

from mmonepeace.datasets.audio_io import AudioError
from mmonepeace.datasets.image_io import ImageError

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
        numbers = self._states.bincount(minlength=len(KINDS) + 2).tolist()[2:]
        return {kind: n for kind, n in zip(KINDS.values(), numbers, strict=True) if n}

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
        broken = (self._states > 1).nonzero()[:, 0]
        seen = self.seen
        if len(broken) > self.max_share * max(seen, min(len(self._states), FEW)):
            found = ", ".join(f"{number} {kind}" for kind, number in self.counts.items())
            raise TooManyBrokenError(
                f"{len(broken)} of {seen} samples seen are broken ({found}), more than "
                f"max_broken={self.max_share} allows. The first: "
                f"{', '.join(map(name, broken[:5].tolist()))}. Mend them, leave them out, or raise "
                "max_broken."
            )
