"""Samples of any data set that depend on nothing but the seed, the epoch and their index."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.registry import DATASETS as ANY_DATASETS
from torch.utils.data import Dataset

from mmonepeace.datasets.pairs import PairDataset
from mmonepeace.datasets.resumable_sampler import EpochIndex
from mmonepeace.registry import DATASETS


@contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Seed Python, NumPy and torch on the CPU; afterwards they go on as if nothing had happened."""
    with _kept_states():
        _seed(*seeds)
        yield


@contextmanager
def _kept_states() -> Iterator[None]:
    generator = torch.default_generator
    before = random.getstate(), np.random.get_state(), generator.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        generator.set_state(before[2])


def _seed(*seeds: int) -> None:
    (seed,) = np.random.SeedSequence(seeds).generate_state(1).tolist()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too


class ForwardingDataset(Dataset[Any]):
    """Another data set, `dataset`, apart from what a subclass defines and from the attributes `own`."""

    own: ClassVar[tuple[str, ...]] = ("dataset",)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Unpickled, it has no data set yet; and torch would fetch by special methods of the other.
        if name.startswith("__") or name in self.own:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Hooks change the data set during training, such as its pipeline.
        if name in self.own:
            self.__dict__[name] = value
        else:
            setattr(self.dataset, name, value)


@DATASETS.register_module()
class SeededDataset(ForwardingDataset):
    """Another data set, whose random transforms draw the same numbers for the same sample and epoch.

    Hence samples depend neither on the number of workers nor on where a run was resumed. Everything
    but the samples is the other data set's: its length, attributes, methods. Transforms that keep
    samples between calls, such as mmdet's `CachedMosaic`, or have a random generator of their own
    are not reproducible.

    Args:
        dataset: with a length, or its config.
        seed: of everything random in a sample, 0 or more.
    """

    own = ("dataset", "seed")

    def __init__(self, dataset: Dataset[Any] | Mapping[str, Any], seed: int = 0) -> None:
        built = ANY_DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        self.__dict__.update(dataset=built, seed=seed)

    def __getitem__(self, position: int | EpochIndex) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int | EpochIndex]) -> list[Any]:
        """The samples of a batch, for torch's loader: keeping states costs as much as a small sample."""
        with _kept_states():
            return [self._get(position) for position in positions]

    def _get(self, position: int | EpochIndex) -> Any:
        index, epoch = position if isinstance(position, EpochIndex) else (position, 0)
        if isinstance(index, int):
            index = range(len(self))[index]  # as lists do: negative ones, IndexError
        knows_epochs = isinstance(self.dataset, PairDataset)
        _seed(self.seed, epoch, *np.ravel(index).tolist())  # a frame of a video has two
        return self.dataset[EpochIndex(index, epoch) if knows_epochs else index]

    def get_data_info(self, position: int | EpochIndex) -> Any:
        """What the other data set knows of a sample; samplers of batches ask for it."""
        return self.dataset.get_data_info(_index(position))

    def get_cat_ids(self, position: int | EpochIndex) -> Any:
        """Classes of a sample; samplers of classes ask for them."""
        return self.dataset.get_cat_ids(_index(position))


def _index(position: int | EpochIndex) -> int:
    return position.index if isinstance(position, EpochIndex) else position
