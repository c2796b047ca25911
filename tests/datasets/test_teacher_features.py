import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace.apis.feature_cache import write_shard
from mmonepeace.datasets import LoadImage, LoadTeacherFeatures, PairDataset, RepeatViews
from mmonepeace.datasets.sample_errors import MissingError
from mmonepeace.datasets.teacher_features import view_key


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (50, 60, 3), np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_views_repeat_after_so_many_epochs(folder):
    steps = [RepeatViews(2), LoadImage(size=32, crop_scale=(0.3, 0.6))]
    dataset = PairDataset(str(folder), {"image": ""}, pipeline=steps)
    views = [dataset[(1, epoch)]["inputs"]["image"] for epoch in range(4)]
    assert torch.equal(views[0], views[2])
    assert torch.equal(views[1], views[3])
    assert not torch.equal(views[0], views[1])
    with pytest.raises(ValueError, match="views is 0"):
        RepeatViews(0)


def test_features_are_those_of_a_file_and_a_view(folder):
    record = {"img_path": str(folder / "0.png"), "seed": (0, 1, 0)}
    shards = folder / "features"
    key = view_key("image", record, str(shards))
    x_LE = torch.arange(12.0).view(3, 4).half()
    write_shard(shards / "a.safetensors", ([key], x_LE, np.array([3])), {})
    load = LoadTeacherFeatures(str(shards))
    assert torch.equal(load(dict(record))["inputs"]["image_target"], x_LE)
    other = {"img_path": str(folder / "1.png"), "seed": (0, 1, 1)}
    for lacking in (dict(record, seed=(0, 0, 0)), other):
        with pytest.raises(ValueError, match=r"--features-only"):
            load(lacking)
    key = view_key("image", other, str(shards))
    write_shard(shards / "b.safetensors", ([key], x_LE + 1, np.array([3])), {})
    assert torch.equal(load(dict(other))["inputs"]["image_target"], x_LE + 1)  # written later
    (folder / "0.png").write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"has no features of .*0\.png"):
        load(record)
    with pytest.raises(MissingError, match="No such file"):
        load(dict(record, img_path=str(folder / "gone.png")))
