from itertools import islice

import pytest
from mmengine.registry import DATA_SAMPLERS

from mmonepeace.datasets import EndlessSampler, resumable_sampler


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
