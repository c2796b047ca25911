import copy

import pytest
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmonepeace.datasets.resumable_sampler import EndlessSampler
from mmonepeace.engine.train_loop import (
    EndlessLoader,
    EndlessTrainLoop,
    EpochTrainLoop,
    make_resumable,
)


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


STEPS, EPOCHS = dict(type="IterBasedTrainLoop", max_iters=9), dict(by_epoch=True, max_epochs=2)
DEFAULT = dict(type="DefaultSampler", shuffle=False)
BY_RATIO = dict(type="AspectRatioBatchSampler")


def loader(**options):
    return (
        dict(batch_size=2, sampler=dict(type="InfiniteSampler"), dataset=dict(type="D")) | options
    )


@pytest.mark.parametrize(
    ("loop", "given", "kind", "sampler", "batches"),
    [
        (STEPS, {}, EndlessTrainLoop, "mmonepeace.EndlessSampler", None),
        (dict(by_epoch=False, max_iters=9), dict(sampler=DEFAULT), EndlessTrainLoop,
         "mmonepeace.EndlessSampler", None),
        (STEPS, dict(batch_sampler=BY_RATIO), EndlessTrainLoop, "mmonepeace.EndlessSampler", True),
        (dict(type="mmonepeace.EndlessTrainLoop", max_iters=9),
         dict(sampler=dict(type="mmonepeace.EndlessSampler")), "mmonepeace.EndlessTrainLoop",
         "mmonepeace.EndlessSampler", None),
        (EPOCHS, dict(sampler=DEFAULT, drop_last=True), EpochTrainLoop, "DefaultSampler", False),
        (EPOCHS, dict(sampler=DEFAULT, batch_sampler=BY_RATIO), EpochTrainLoop, "DefaultSampler",
         False),
    ],
)  # fmt: skip
def test_a_recipe_of_mmengine_gets_what_can_resume(loop, given, kind, sampler, batches):
    given = loader(**given)
    before = copy.deepcopy((loop, given))
    new_loop, new = make_resumable(loop, given, seed=5)
    assert (loop, given) == before
    assert new_loop == {"type": kind} | {k: v for k, v in loop.items() if k.startswith("max_")}
    assert new["dataset"] == dict(type="mmonepeace.SeededDataset", dataset=dict(type="D"), seed=5)
    assert new["sampler"]["type"] == sampler
    if given["sampler"]["type"] != sampler:
        shuffle = given["sampler"].get("shuffle", True)
        assert new["sampler"] == dict(type=sampler, shuffle=shuffle, seed=5)
    assert ("batch_sampler" in new) == (batches is not None)
    if batches is not None:
        assert new["batch_sampler"]["batch_sampler"] == given.get("batch_sampler")
        assert new["batch_sampler"]["endless"] == batches
        assert new["batch_sampler"]["drop_last"] == given.get("drop_last", False)
        assert "drop_last" not in new


@LOOPS.register_module(force=True)
class LoopOfOthers(IterBasedTrainLoop):
    pass


@DATASETS.register_module(force=True)
class StreamOfOthers(IterableDataset):
    pass


def test_what_has_its_own_order_is_left_alone():
    own = dict(type="LoopOfOthers", max_iters=9)
    assert make_resumable(own, loader(), 5) == (own, loader())
    stream = loader(sampler=None, dataset=dict(type="StreamOfOthers"))
    assert make_resumable(STEPS, stream, 5) == (STEPS, stream)
    ours = loader(sampler=None, dataset=dict(type="mmonepeace.ShardDataset"))
    assert make_resumable(STEPS, ours, 5) == (STEPS | dict(type=EndlessTrainLoop), ours)
