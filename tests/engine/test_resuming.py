import numpy as np
import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checks import CheckError
from mmonepeace.engine.resuming import (
    find_latest_valid_checkpoint,
    leave_out_objects,
    to_serializable,
)


def content(value):
    return {"state_dict": {"x": torch.full((4096,), float(value))}, "meta": {"iter": value}}


@pytest.fixture
def run(tmp_path):
    """A work directory with three checkpoints."""
    for step in (5, 10, 15):
        checkpoint.write_run(tmp_path / f"iter_{step}.pth", content(step))
    checkpoint.write_run(tmp_path / "best_recall_iter_20.pth", content(20))
    (tmp_path / "last_checkpoint").write_text("/elsewhere/iter_15.pth")
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(15).tobytes() * 8) + 3] ^= 1
    path.write_bytes(data)


def spoil(path):
    checkpoint.write_run(path, content(float("nan")))


def fill_with_zeros(path):
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


def test_the_newest_checkpoint_is_found(run):
    assert find_latest_valid_checkpoint(run) == str(run / "iter_15.pth")


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, spoil, fill_with_zeros, lambda path: path.write_bytes(b"")]
)
def test_a_damaged_one_gives_way_to_the_one_before_it(run, damage):
    damage(run / "iter_15.pth")
    assert find_latest_valid_checkpoint(run) == str(run / "iter_10.pth")


def test_if_all_are_damaged_nothing_starts_from_scratch(run):
    before = {path: truncate(path) or path.read_bytes() for path in run.glob("iter_*.pth")}
    with pytest.raises(
        CheckError, match=r"iter_15\.pth \(.*iter_10\.pth \(.*iter_5\.pth.*--resume"
    ):
        find_latest_valid_checkpoint(run)
    assert {path: path.read_bytes() for path in run.glob("iter_*.pth")} == before


def test_a_note_without_the_checkpoint_does_not_start_from_scratch(tmp_path):
    assert find_latest_valid_checkpoint(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_15.pth"))
    with pytest.raises(CheckError, match=r"names .*iter_15\.pth, but neither it.*remove last"):
        find_latest_valid_checkpoint(tmp_path)


@pytest.fixture
def sharded(run):
    """The newest checkpoint is a folder of two files."""
    folder = run / "iter_15.pth"
    folder.unlink()
    folder.mkdir()
    for name in ("a.pth", "b.pth"):
        checkpoint.write_run(folder / name, content(15))
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


def test_what_could_not_be_read_again_is_refused_or_left_out():
    with pytest.raises(TypeError, match="Correct the hook or the data set"):
        to_serializable({"faulty": [object()]}, lambda tensor: tensor)
    info = {"classes": ("a",), "mean": np.float64(3.0), "made_by": object()}
    assert leave_out_objects(info) == {"classes": ("a",), "mean": 3.0}
