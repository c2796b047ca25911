import copy
import random
from types import MappingProxyType

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from mmonepeace.datasets import EndlessSampler, SeededDataset
from mmonepeace.datasets.resumable_sampler import EpochIndex


class Draws(Dataset):
    """Three random numbers beside the index."""

    metainfo = MappingProxyType({"classes": ("a", "b")})
    scale = 1.0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        numbers = random.random(), np.random.rand(), torch.rand(()).item()
        return index, *(self.scale * number for number in numbers)

    def get_data_info(self, index):
        return {"width": index}

    def __getitems__(self, indices):
        raise NotImplementedError


def batches(workers, count=5, seed=1):
    data = SeededDataset(Draws(), seed)
    loader = iter(
        DataLoader(
            data,
            2,
            sampler=EndlessSampler(data, seed=0),
            num_workers=workers,
            collate_fn=list,
        )
    )
    return [sample for _ in range(count) for sample in next(loader)]


def test_samples_do_not_depend_on_workers_and_differ_between_epochs_and_seeds():
    expected = batches(0)
    assert batches(2) == expected
    assert len({sample[1:] for sample in expected}) == 10  # of two epochs
    assert not {s[1:] for s in batches(0, seed=2)} & {s[1:] for s in expected}
    assert all(len(set(sample[1:])) == 3 for sample in expected)


def test_reading_a_sample_leaves_the_random_state_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    data = SeededDataset(Draws())
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = draw()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert data[2] == data[2] == data[-4] != data[EpochIndex(2, 1)]
    assert data.__getitems__([-4, EpochIndex(2, 1)]) == [data[2], data[EpochIndex(2, 1)]]
    assert draw() == expected
    with pytest.raises(IndexError):
        data[6]


def test_all_else_is_that_of_the_data_set():
    data = SeededDataset(Draws())
    assert len(data) == 6
    assert data.metainfo["classes"] == ("a", "b")
    assert data.get_data_info(EpochIndex(3, 7)) == data.get_data_info(3) == {"width": 3}
    data.scale = 0.0  # as hooks change the pipeline
    assert data.dataset.scale == 0.0
    again = copy.deepcopy(data)  # which makes it as unpickling does, in a worker
    assert again[1] == (1, 0.0, 0.0, 0.0)
    assert not hasattr(data, "full_init")
    with pytest.raises(AttributeError, match="nothing"):
        _ = data.nothing


def test_it_is_built_by_name_around_a_config_of_any_library():
    @DATASETS.register_module(force=True)
    class Listed(BaseDataset):
        def load_data_list(self):
            return [{"value": i} for i in range(3)]

    config = dict(type="mmonepeace.SeededDataset", dataset=dict(type="Listed", lazy_init=True))
    data = DATASETS.build(config)
    data.full_init()
    assert data[EpochIndex(2, 5)] == {"value": 2, "sample_idx": 2}
