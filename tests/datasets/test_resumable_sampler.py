from itertools import islice

import numpy as np
import pytest
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler, SequentialSampler

from mmonepeace.datasets import EndlessSampler, ResumableBatchSampler, resumable_sampler


def draws(count, size=10, rank=0, world_size=1, start=0, shuffle=True):
    endless = EndlessSampler(range(size), shuffle, seed=3)
    endless.rank, endless.world_size = rank, world_size
    endless.skip(start)
    return list(islice(endless, count))


def test_each_epoch_has_every_sample_once_in_a_new_order():
    epochs = [draws(30)[i : i + 10] for i in (0, 10, 20)]
    for number, epoch in enumerate(epochs):
        assert sorted(draw.index for draw in epoch) == list(range(10))
        assert {draw.epoch for draw in epoch} == {number}
    assert len({tuple(d.index for d in epoch) for epoch in epochs}) == 3
    assert [d.index for d in draws(12, shuffle=False)] == [*range(10), 0, 1]


@pytest.mark.parametrize("world_size", [2, 3, 4, 12])
def test_processes_divide_the_stream(world_size):
    parts = [draws(20, rank=rank, world_size=world_size) for rank in range(world_size)]
    mixed = [draw for group in zip(*parts, strict=True) for draw in group]
    assert mixed == draws(20 * world_size)


@pytest.mark.parametrize("start", [0, 1, 9, 10, 37])
def test_skipping_is_the_same_as_drawing(start):
    for rank in (0, 2):
        expected = draws(start + 15, rank=rank, world_size=3)
        assert draws(15, rank=rank, world_size=3, start=start) == expected[start:]


def test_it_is_built_by_name_and_agrees_on_a_seed(monkeypatch):
    monkeypatch.setattr(resumable_sampler, "sync_random_seed", lambda: 3)
    config = dict(type="mmonepeace.EndlessSampler", dataset=range(10), seed=None)
    built = DATA_SAMPLERS.build(config)
    assert list(islice(built, 15)) == draws(15)
    assert len(built) == 10


class Repeating(Sampler):
    """Each index of an epoch three times, in an order of the epoch, as for repeated augmentation."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(5).tolist()
        yield from (index for index in order for _ in range(3))

    def __len__(self):
        return 15


class Sorting(BatchSampler):
    """Batches of even and of odd indices, which have state, as those of aspect ratios."""

    def __iter__(self):
        buckets = [], []
        for draw in self.sampler:
            buckets[draw[0] % 2 if isinstance(draw, tuple) else draw % 2].append(draw)
            for bucket in buckets:
                if len(bucket) == self.batch_size:
                    yield bucket[:]
                    bucket.clear()


DATA_SAMPLERS.register_module(name="TestSorting", module=Sorting, force=True)
SORTING = dict(type="TestSorting", drop_last=True)


def batches(count, start=0, epoch=0, sampler=None, **options):
    built = ResumableBatchSampler(Repeating() if sampler is None else sampler, 4, **options)
    built.start_at(start, epoch)
    return list(islice(built, count))


@pytest.mark.parametrize("batch_sampler", [None, SORTING])
@pytest.mark.parametrize("start", [1, 3, 4, 11])
def test_skipped_batches_are_those_that_were_drawn(batch_sampler, start):
    options = dict(batch_sampler=batch_sampler, endless=True)
    expected = batches(start + 6, **options)
    assert batches(6, start, **options) == expected[start:]
    drawn = [draw for batch in expected for draw in batch]
    assert len(set(drawn)) == len(drawn)  # each draw is augmented in its own way


def test_an_epoch_ends_and_the_next_one_has_another_order():
    first, second = batches(99), batches(99, epoch=1)
    assert [len(batch) for batch in first] == [4, 4, 4, 3]
    assert [len(batch) for batch in batches(99, drop_last=True)] == [4, 4, 4]
    assert batches(99, 2) == first[2:]
    for epoch in (first, second):
        assert sorted(draw.index for batch in epoch for draw in batch) == sorted([*range(5)] * 3)
    assert [d.index for d in first[0]] != [d.index for d in second[0]]
    assert len(ResumableBatchSampler(Repeating(), 4)) == 4


def test_batches_of_an_endless_sampler_keep_its_epochs():
    sampler = EndlessSampler(range(10), seed=3)
    expected = batches(8, sampler=sampler, batch_sampler=SORTING)
    assert {draw.epoch for batch in expected for draw in batch} >= {0, 1, 2}
    assert batches(3, 5, sampler=sampler, batch_sampler=SORTING) == expected[5:]


def test_a_sampler_without_indices_ends():
    assert batches(9, sampler=SequentialSampler(()), endless=True) == []
