import pytest
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmonepeace.datasets.resumable_sampler import EndlessSampler
from mmonepeace.engine.train_loop import EndlessLoader


class Draws(Dataset):
    """Gives back what it was asked for."""

    def __len__(self):
        return 7

    def __getitem__(self, draw):
        return tuple(draw)


class Stream(IterableDataset):
    start = 0
    total = 30

    def skip(self, number):
        self.start = number

    def __iter__(self):
        yield from range(self.start, 100)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_begin_where_a_run_was_left(workers):
    def batches():
        sampler = EndlessSampler(Draws(), seed=3)
        return EndlessLoader(
            DataLoader(Draws(), 4, sampler=sampler, num_workers=workers, collate_fn=list)
        )

    whole, rest = batches(), batches()
    expected = [next(whole) for _ in range(6)]
    rest.skip_iter(4)
    assert [next(rest) for _ in range(2)] == expected[4:]
    assert len({row for batch in expected for row in batch}) == 24  # no draw twice


def test_a_stream_begins_where_a_run_was_left():
    rest = EndlessLoader(DataLoader(Stream(), 4, collate_fn=list))
    rest.skip_iter(3)
    assert next(rest) == [12, 13, 14, 15]
    assert len(rest) == 8  # batches of an epoch of thirty


def test_a_sampler_that_cannot_skip_is_refused_at_once():
    class Plain(InfiniteSampler):
        skip = property()

    with pytest.raises(TypeError, match=r"Plain.*mmonepeace\.EndlessSampler"):
        EndlessLoader(DataLoader(Draws(), 4, sampler=Plain(Draws(), seed=0)))
