import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError, find


def test_a_file_is_itself(tmp_path):
    path = tmp_path / "a.pth"
    path.touch()
    assert find(path) == path


def test_the_newest_of_a_work_directory(tmp_path):
    for name in ("iter_9.pth", "iter_10.pth", "best_x_iter_8.pth", "iter_99.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "iter_11.pth").mkdir()  # was never completed
    assert find(tmp_path) == tmp_path / "iter_10.pth"
    checkpoint.write_run(tmp_path / "iter_11.pth/x.pth", {"state_dict": {"w": torch.ones(1)}})
    checkpoint.commit(tmp_path / "iter_11.pth", ["x.pth"])
    assert find(tmp_path) == tmp_path / "iter_11.pth"
    assert find(tmp_path / "iter_11.pth") == tmp_path / "iter_11.pth"


def test_the_only_file_of_a_folder(tmp_path):
    weights = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    checkpoint.write(tmp_path / "a.safetensors", checkpoint.Conversion(weights, {}), 4000)
    index = tmp_path / "a.safetensors.index.json"
    assert len(list(tmp_path.iterdir())) == 3
    assert find(tmp_path) == index
    assert find(tmp_path / "a.safetensors") == index
    assert checkpoint.read(tmp_path)[0].keys() == weights.keys()
    (tmp_path / "b.pkl").touch()
    with pytest.raises(CheckpointError, match=r"2 checkpoints \(a.*json, b\.pkl\)\. Name one"):
        find(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nosuch\.pt: no such file or folder\. Name a check"):
        find(tmp_path / "nosuch.pt")
    with pytest.raises(CheckpointError, match="the folder has no checkpoint"):
        find(tmp_path)
