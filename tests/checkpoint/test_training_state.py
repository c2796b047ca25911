import json
from functools import partial

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError


def content(rows, first):
    """What a process writes: its rows, and the first one what is not sharded too."""
    mine = {"state_dict": {"w": rows}, "optimizer": {"state": {0: {"exp_avg": rows * 2}}}}
    if first:
        mine["state_dict"]["scale"] = torch.tensor(7.0)
        mine["optimizer"]["state"][0]["step"] = torch.tensor(3.0)
        mine["optimizer"]["param_groups"] = [{"params": [0], "betas": (0.9, 0.98)}]
        mine["meta"] = {"iter": 3, "texts": ["a"]}
    return mine


@pytest.fixture
def folder(tmp_path):
    """Rows of three processes, the last of which has none."""
    path = tmp_path / "iter_3.pth"
    path.mkdir()
    parts = torch.arange(10.0).view(5, 2).split([3, 2, 0])
    for rank, rows in enumerate(parts):
        checkpoint.write_run(path / f"x-{rank}.pth", content(rows.clone(), rank == 0))
    checkpoint.commit(path, [f"x-{rank}.pth" for rank in range(3)])
    return path


def test_parts_are_joined(folder):
    run = checkpoint.read_run(folder)
    whole = torch.arange(10.0).view(5, 2)
    assert torch.equal(run["state_dict"]["w"], whole)
    assert run["state_dict"]["scale"] == 7
    assert torch.equal(run["optimizer"]["state"][0]["exp_avg"], whole * 2)
    assert run["optimizer"]["state"][0]["step"] == 3
    assert run["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.98)
    weights, meta = checkpoint.read(folder)
    assert torch.equal(weights["w"], whole)
    assert meta == {"iter": 3, "texts": ["a"]}


def test_a_file_is_a_run_in_one_part(folder, tmp_path):
    whole = checkpoint.read_run(folder)
    checkpoint.write_run(tmp_path / "whole.pth", whole)
    seen = []
    again = checkpoint.read_run(tmp_path / "whole.pth", lambda parts: seen.append(len(parts)))
    assert set(seen) == {1}
    assert again["meta"] == whole["meta"]


def test_only_what_is_taken_is_kept(folder):
    rows = checkpoint.read_run(folder, lambda parts: parts[-1])["state_dict"]
    assert rows["w"].shape == (0, 2)
    assert rows["scale"] == 7


def test_what_was_read_outlives_its_file(folder):
    run = checkpoint.read_run(folder)
    for path in folder.glob("*.pth"):
        path.write_bytes(b"")
    assert run["state_dict"]["w"].sum() == 45


def test_a_folder_is_what_it_was_until_it_is_committed_again(folder):
    checkpoint.write_run(folder / "y-0.pth", content(torch.zeros(5, 2), True))
    assert checkpoint.read_run(folder)["state_dict"]["w"].sum() == 45
    checkpoint.commit(folder, ["y-0.pth"])
    assert checkpoint.read_run(folder)["state_dict"]["w"].sum() == 0
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "y-0.pth"]


def put(text, folder):
    (folder / "index.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "index.json").unlink(), "has no index.json"),
        (partial(put, "{"), "names no files"),
        (partial(put, "[]"), "names no files"),
        (partial(put, json.dumps({"files": ["../x.pth"]})), "refused"),
        (partial(put, json.dumps({"files": ["x.pkl"]})), "refused"),
        (lambda folder: (folder / "x-1.pth").unlink(), "x-1.pth is missing"),
        (lambda folder: (folder / "x-1.pth").write_bytes(b"PK"), "truncated"),
    ],
)
@pytest.mark.parametrize("read", [checkpoint.read, checkpoint.read_run])
def test_a_damaged_folder_is_named_once_with_the_reason(folder, damage, says, read):
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as error:
        read(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert str(error.value).count(str(folder)) == 1


def test_a_file_with_anything_but_tensors_is_refused(tmp_path):
    torch.save({"state_dict": {}, "meta": tmp_path}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"meta is of a class that is not read"):
        checkpoint.read_run(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.read_run(tmp_path / "y.pth")


@pytest.mark.parametrize(
    ("value", "says"),
    [(float("nan"), "1 of 2 tensors have NaN or infinite numbers: w"), (float("inf"), ": w")],
)
def test_weights_that_are_not_finite_are_not_valid(folder, value, says):
    checkpoint.verify_run(folder)
    bad = torch.full((5, 2), 1.0)
    bad[3, 1] = value
    checkpoint.write_run(folder / "y-0.pth", content(bad, True))
    checkpoint.commit(folder, ["y-0.pth"])
    with pytest.raises(CheckpointError, match=says):
        checkpoint.verify_run(folder)


def test_large_numbers_are_finite(tmp_path):
    checkpoint.write_run(tmp_path / "x.pth", {"state_dict": {"w": torch.full((9,), 3e38)}})
    checkpoint.verify_run(tmp_path / "x.pth")


def test_a_changed_byte_of_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    checkpoint.write_run(path, {"state_dict": {"w": torch.full((999,), 0.3)}})
    data = bytearray(path.read_bytes())
    at = data.index(torch.full((999,), 0.3).numpy().tobytes())
    data[at + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"state_dict\.w: not the numbers that were written"):
        checkpoint.verify_run(path)


def test_logs_of_mmengine_are_read_as_ours(tmp_path):
    log = HistoryBuffer([0.5, 0.25], [1, 2])
    content = {"state_dict": {}, "message_hub": {"log_scalars": {"loss": log}}}
    torch.save(content, tmp_path / "x.pth")
    values, counts = checkpoint.read_run(tmp_path / "x.pth")["message_hub"]["log_scalars"]["loss"]
    assert values.tolist() == [0.5, 0.25]
    assert counts.tolist() == [1, 2]
