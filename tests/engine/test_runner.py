import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmonepeace.datasets.sampler import EndlessSampler
from mmonepeace.engine import PretrainRunner, StepSeedHook, ThroughputHook
from mmonepeace.engine.runner import EndlessLoader, find_whole_checkpoint


@pytest.fixture
def run(tmp_path):
    """A work directory with three checkpoints."""
    for step in (5, 10, 15):
        torch.save({"x": torch.full((4096,), float(step))}, tmp_path / f"iter_{step}.pth")
    torch.save({}, tmp_path / "best_recall_iter_20.pth")
    (tmp_path / "last_checkpoint").write_text("/elsewhere/iter_15.pth")
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(15).tobytes() * 8) + 3] ^= 1
    path.write_bytes(content)


def test_the_newest_checkpoint_is_found(run):
    assert find_whole_checkpoint(run) == str(run / "iter_15.pth")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_gives_way_to_the_one_before_it(run, damage, capsys):
    damage(run / "iter_15.pth")
    assert find_whole_checkpoint(run) == str(run / "iter_10.pth")
    damage_all = [run / "iter_10.pth", run / "iter_5.pth"]
    for path in damage_all:
        truncate(path)
    assert find_whole_checkpoint(run) is None


def test_those_of_an_earlier_run_in_the_same_folder_are_left_alone(run):
    (run / "last_checkpoint").write_text(str(run / "iter_10.pth"))
    assert find_whole_checkpoint(run) == str(run / "iter_10.pth")


@pytest.mark.parametrize("note", [None, ""])
def test_the_note_of_the_last_one_may_be_lost(run, note):
    (run / "last_checkpoint").unlink()
    if note is not None:
        (run / "last_checkpoint").write_text(note)
    assert find_whole_checkpoint(run) == str(run / "iter_15.pth")


def test_an_empty_folder_has_none(tmp_path):
    assert find_whole_checkpoint(tmp_path) is None


def test_a_checkpoint_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    seen = []

    def save(self, out_dir, filename, *args, **kwargs):
        (tmp_path / filename).write_bytes(b"half")
        seen.append((tmp_path / "iter_1.pth").exists())
        if fails:
            raise KeyboardInterrupt
        (tmp_path / filename).write_bytes(b"whole")

    monkeypatch.setattr(Runner, "save_checkpoint", save)
    runner = PretrainRunner.__new__(PretrainRunner)
    fails = True
    with pytest.raises(KeyboardInterrupt):
        runner.save_checkpoint(str(tmp_path), "iter_1.pth")
    assert not list(tmp_path.glob("iter_*"))
    fails = False
    runner.save_checkpoint(str(tmp_path), "iter_1.pth")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]
    assert seen == [False, False]


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


def draws(seed, rank, step):
    StepSeedHook().before_train_iter(SimpleNamespace(seed=seed, rank=rank, iter=step), step)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_randomness_of_a_step_depends_on_nothing_before_it():
    first = draws(7, 0, 100)
    torch.rand(1000), np.random.rand(5), random.random()
    assert draws(7, 0, 100) == first
    others = {draws(8, 0, 100), draws(7, 1, 100), draws(7, 0, 101)}
    assert len({first, *others}) == 4


def test_throughput_is_the_pairs_of_a_step_by_its_time():
    hub = MessageHub.get_instance("throughput")
    for seconds in (9.0, 1.0, 3.0):
        hub.update_scalar("train/time", seconds)
    runner = SimpleNamespace(message_hub=hub)
    ThroughputHook(2).after_train_iter(runner, 0, {"data_samples": [None] * 8})
    assert hub.get_scalar("train/pairs_per_second").current() == 4
