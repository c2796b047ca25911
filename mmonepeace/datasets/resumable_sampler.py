"""The order of samples of an endless run, which can resume from any position."""

from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmonepeace.registry import DATA_SAMPLERS


class EpochIndex(NamedTuple):
    """Index of a sample, and the epoch, on which its random transforms depend."""

    index: int  # type: ignore[assignment]  # hides the method of tuples
    epoch: int


@DATA_SAMPLERS.register_module()
class EndlessSampler(Sampler[EpochIndex]):
    """Epoch after epoch, each in a new order, distributed over the processes in turn.

    MMEngine's `InfiniteSampler` with indices that have their epoch. `shuffle=False` keeps the order
    of the data set. `seed` is the same in all processes; with None, they agree on one.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
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
