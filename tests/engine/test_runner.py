from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.runner import BaseLoop

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checks import CheckError
from mmonepeace.engine import PretrainRunner
from mmonepeace.engine.resuming import find_latest_valid_checkpoint


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
    assert find_latest_valid_checkpoint(run) == str(run / "iter_15.pth")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_one_gives_way_to_the_one_before_it(run, damage):
    damage(run / "iter_15.pth")
    assert find_latest_valid_checkpoint(run) == str(run / "iter_10.pth")


def test_if_all_are_damaged_nothing_starts_from_scratch(run):
    before = {path: truncate(path) or path.read_bytes() for path in run.glob("iter_*.pth")}
    with pytest.raises(CheckError, match=r"iter_15\.pth, iter_10\.pth, iter_5\.pth.*--resume"):
        find_latest_valid_checkpoint(run)
    assert {path: path.read_bytes() for path in run.glob("iter_*.pth")} == before


@pytest.fixture
def sharded(run):
    """The newest checkpoint is a folder of two files."""
    folder = run / "iter_15.pth"
    folder.unlink()
    folder.mkdir()
    for name in ("a.pth", "b.pth"):
        torch.save({"x": torch.full((4096,), 15.0)}, folder / name)
    checkpoint.commit(folder, ["a.pth", "b.pth"])
    return folder


def test_a_folder_is_a_checkpoint_too(sharded):
    assert find_latest_valid_checkpoint(sharded.parent) == str(sharded)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate(folder / "b.pth"),
        lambda folder: flip_a_bit(folder / "b.pth"),
        lambda folder: (folder / "b.pth").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").unlink(),  # it was never finished
    ],
)
def test_a_damaged_folder_gives_way_too(sharded, damage):
    damage(sharded)
    assert find_latest_valid_checkpoint(sharded.parent) == str(sharded.parent / "iter_10.pth")


def test_a_first_folder_that_was_never_finished_is_no_loss(tmp_path):
    (tmp_path / "iter_5.pth").mkdir()
    assert find_latest_valid_checkpoint(tmp_path) is None


def test_those_of_an_earlier_run_in_the_same_folder_are_left_alone(run):
    (run / "last_checkpoint").write_text(str(run / "iter_10.pth"))
    assert find_latest_valid_checkpoint(run) == str(run / "iter_10.pth")


@pytest.mark.parametrize("note", [None, ""])
def test_the_note_of_the_last_one_may_be_lost(run, note):
    (run / "last_checkpoint").unlink()
    if note is not None:
        (run / "last_checkpoint").write_text(note)
    assert find_latest_valid_checkpoint(run) == str(run / "iter_15.pth")


def test_an_empty_folder_has_none(tmp_path):
    assert find_latest_valid_checkpoint(tmp_path) is None


def bare_runner(**attributes):
    runner = PretrainRunner.__new__(PretrainRunner)
    attributes = {
        "_shards": None,
        "model": torch.nn.Linear(2, 2),
        "cfg": Config(),
        "strategy": SimpleNamespace(seed=0, experiment_name="x"),
        "message_hub": MessageHub.get_instance("runner"),
        "optim_wrapper": None,
        "param_schedulers": None,
        "_hooks": [],
        "_train_loop": Loop(),
    } | attributes
    for name, value in attributes.items():
        setattr(runner, name, value)
    return runner


class Loop(BaseLoop):
    epoch, iter = 0, 6
    dataloader = SimpleNamespace(dataset=None)

    def __init__(self):
        pass

    def run(self):
        pass


def save(runner, folder, **options):
    runner.save_checkpoint(str(folder), "iter_7.pth", save_optimizer=False, **options)


def test_a_checkpoint_has_its_name_only_when_it_is_complete(tmp_path, monkeypatch):
    def write(content, file):
        file.write(b"half")
        assert not (tmp_path / "iter_7.pth").exists()
        raise KeyboardInterrupt

    runner = bare_runner()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", write)
        with pytest.raises(KeyboardInterrupt):
            save(runner, tmp_path)
    assert not list(tmp_path.glob("iter_*"))
    save(runner, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["iter_7.pth"]


def test_a_checkpoint_is_read_without_running_code(tmp_path):
    hub = MessageHub.get_instance("plain")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("best_score", np.float64(3.0))
    save(bare_runner(message_hub=hub), tmp_path, meta={"iter": 6, "classes": np.arange(3)})
    content = torch.load(tmp_path / "iter_7.pth", weights_only=True)
    assert content["meta"]["iter"] == 6  # and not that of this moment
    assert content["meta"]["classes"].tolist() == [0, 1, 2]
    assert content["message_hub"]["runtime_info"]["best_score"] == 3.0
    assert content["message_hub"]["log_scalars"]["train/loss"][0].tolist() == [0.5]


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="Correct the hook or the data set"):
        save(bare_runner(), tmp_path, meta={"faulty": object()})
    assert not list(tmp_path.iterdir())


def test_a_file_takes_the_place_of_a_folder_of_an_earlier_run(tmp_path):
    (tmp_path / "iter_7.pth").mkdir()
    (tmp_path / "iter_7.pth/0.pth").write_bytes(b"old")
    save(bare_runner(), tmp_path)
    assert (tmp_path / "iter_7.pth").is_file()


def test_weights_alone_cannot_be_resumed(tmp_path):
    runner = bare_runner(strategy=SimpleNamespace(logger=mock.Mock(), seed=0, experiment_name="x"))
    save(runner, tmp_path)
    with pytest.raises(CheckpointError, match=r"iter_7\.pth has no optimizer.*load_from="):
        runner.resume(str(tmp_path / "iter_7.pth"))


def test_weights_of_another_model_are_refused(tmp_path):
    strategy = SimpleNamespace(logger=mock.Mock(), seed=0, experiment_name="x")
    save(bare_runner(), tmp_path)
    other = bare_runner(strategy=strategy, model=torch.nn.Linear(2, 3))
    with pytest.raises(CheckpointError, match=r"(?s)iter_7\.pth: .*size mismatch.*recipe"):
        other.load_checkpoint(str(tmp_path / "iter_7.pth"))
