"""Data sets of any library in which a file that cannot be read ends nothing: another takes its place."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as ANY_DATASETS
from torch.utils.data import Dataset

from mmonepeace.datasets.broken_samples import BrokenSamples, mark_left_out
from mmonepeace.datasets.guarded_loading import guard_loading
from mmonepeace.datasets.seeded_dataset import ForwardingDataset, seeded
from mmonepeace.registry import DATASETS


@DATASETS.register_module()
def tolerate_broken(dataset: Dataset[Any] | Mapping[str, Any], max_broken: float) -> Any:
    """Put a `TolerantDataset` around each data set that reads files, inside wrappers as well.

    Args:
        dataset: with a length, or its config. Those that count their own broken samples, and streams,
            stay as they are.
        max_broken: see `BrokenSamples`.
    """
    built = ANY_DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
    if hasattr(built, "full_init"):
        built.full_init()
    return _tolerant(built, max_broken)


def _tolerant(dataset: Any, max_broken: float) -> Any:
    own = getattr(dataset, "__dict__", {})
    if isinstance(own.get("datasets"), list):
        own["datasets"][:] = [_tolerant(each, max_broken) for each in own["datasets"]]
    elif "dataset" in own:
        own["dataset"] = _tolerant(own["dataset"], max_broken)
    elif isinstance(dataset, BaseDataset) and "broken" not in own:
        return TolerantDataset(dataset, max_broken)
    return dataset


class TolerantDataset(ForwardingDataset):
    """A data set whose samples that cannot be read are replaced by others, which are marked.

    Replacements depend on the state of the random generators only, not on what was read before. A
    sample with `data_samples` in place of another has `LEFT_OUT` in its metadata.

    Attributes:
        dataset: the data set that reads; its loading transforms are guarded, see `GuardedLoading`.
        broken: its samples that could not be read.
    """

    own = ("dataset", "broken")
    leaves_out = True

    def __init__(self, dataset: BaseDataset, max_broken: float) -> None:
        guard_loading(dataset.pipeline)
        self.__dict__.update(dataset=dataset, broken=BrokenSamples(len(dataset), max_broken))

    def __getitem__(self, index: int) -> Any:
        state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        sample = self._read(index)
        if sample is not None:
            return sample
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        seed = int(np.random.randint(2**31))
        candidates = np.random.default_rng(seed)
        while sample is None:
            candidate = int(candidates.integers(len(self)))
            with seeded(seed, candidate):
                sample = self._read(candidate)
        mark_left_out(sample)
        return sample

    def name(self, index: int) -> str:
        """What a message calls a sample."""
        info = self.dataset.get_data_info(index)
        return f"{index} ({info.get('img_path', 'without a file')})"

    def _read(self, index: int) -> Any:
        """A sample, or None if it is broken, which is counted and logged."""
        dataset = self.dataset
        try:
            if type(dataset).__getitem__ is not BaseDataset.__getitem__:
                sample = None if index in self.broken else dataset[index]
            else:
                # As it does itself, with each sample that it draws counted on its own.
                for _ in range(1 if dataset.test_mode else dataset.max_refetch + 1):
                    if index in self.broken:
                        return None
                    sample = dataset.prepare_data(index)
                    if sample is not None:
                        break
                    index = dataset._rand_another()
                else:
                    raise ValueError("its pipeline leaves nothing of any sample.")
        except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
            self.broken.add(index, error, self.name)
            return None
        if sample is not None:
            self.broken.add_usable(index)
        return sample
