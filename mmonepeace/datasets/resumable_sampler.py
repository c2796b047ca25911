"""The order of samples of a run, which can resume from any position."""

from collections.abc import Iterator, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS as ANY_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from mmonepeace.registry import DATA_SAMPLERS


class EpochIndex(NamedTuple):
    """Index of a sample, and the epoch, on which its random transforms depend.

    Where a sampler may draw a sample several times in an epoch, `epoch` is a number of the draw.
    """

    index: int  # type: ignore[assignment]  # hides the method of tuples
    epoch: int


@DATA_SAMPLERS.register_module()
class EndlessSampler(Sampler[EpochIndex]):
    """Epoch after epoch, each in a new order, distributed over the processes in turn.

    MMEngine's `InfiniteSampler` with indices that have their epoch. `shuffle=False` keeps the order
    of the data set. `seed` is the same in all processes; with None, they agree on one.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.dataset = dataset  # samplers of batches read it
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.start = 0

    def skip(self, num_samples: int) -> None:
        """Start after this many samples of this process; the training loop calls it to resume."""
        self.start = num_samples

    def __iter__(self) -> Iterator[EpochIndex]:
        position = self.start * self.world_size + self.rank
        while True:
            epoch, first = divmod(position, self.size)
            order = np.arange(self.size)
            if self.shuffle:
                np.random.default_rng((self.seed, epoch)).shuffle(order)
            for index in order[first :: self.world_size].tolist():
                yield EpochIndex(index, epoch)
                position += self.world_size

    def __len__(self) -> int:
        """Samples of an epoch, over all processes."""
        return self.size


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(Sampler[list[EpochIndex]]):
    """The batches that other samplers make, from any batch on, each index with a number of its draw.

    Skipping draws indices and reads no samples. The samplers must depend on nothing but their seed
    and epoch, as those of the MM libraries do.

    Args:
        sampler: of indices; its `set_epoch`, if it has one, is called before each epoch.
        batch_size: samples of a batch.
        batch_sampler: config of what makes batches of the indices, such as mmdet's
            `AspectRatioBatchSampler`; by default, they follow one another.
        drop_last: leave out the last batch of an epoch if it is smaller; for the default only.
        endless: after an epoch, begin the next one.
    """

    def __init__(
        self,
        sampler: Sampler[Any],
        batch_size: int,
        batch_sampler: Mapping[str, Any] | None = None,
        drop_last: bool = False,
        endless: bool = False,
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.batches: Any = (
            ANY_SAMPLERS.build(
                batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
            if batch_sampler
            else BatchSampler(sampler, batch_size, drop_last)
        )
        self.endless = endless
        self.rank, self.world_size = get_dist_info()
        self.epoch = self.start = 0

    def start_at(self, batch: int, epoch: int = 0) -> None:
        """Start at this batch of an epoch; it may be beyond the end of the epoch if `endless`."""
        self.epoch, self.start = epoch, batch

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        epoch, skip = self.epoch, self.start
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            draw, number = (epoch << 40) + self.rank, -1
            for number, batch in enumerate(self.batches):
                if number >= skip:
                    yield [
                        index
                        if isinstance(index, EpochIndex)
                        else EpochIndex(index, draw + self.world_size * i)
                        for i, index in enumerate(batch)
                    ]
                draw += self.world_size * len(batch)
            if not self.endless or number < 0:
                return
            epoch, skip = epoch + 1, max(0, skip - number - 1)

    def __len__(self) -> int:
        """Batches of an epoch of this process."""
        return len(self.batches)
