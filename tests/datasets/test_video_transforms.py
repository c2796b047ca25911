"""LoadVideo: clips for training, views for evaluation, and tables of videos."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace.datasets import LabelledDataset
from mmonepeace.datasets.video_transforms import LoadVideo
from mmonepeace.datasets.video_views import crop_boxes

STEPS = [dict(type="mmonepeace.PackModalities")]


@pytest.fixture
def clip(tmp_path):
    """A 12 x 20 animation of eight frames, brighter to the right and with time."""
    ramp = np.arange(20, dtype=np.uint8)
    frames = [Image.fromarray(np.tile(5 * i + 5 * ramp, (12, 1))).convert("RGB") for i in range(8)]
    path = tmp_path / "a.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    return str(path)


def load(path, seed=0, **options):
    options = {"num_frames": 4, "interval": 2, "size": 16, **options}
    return LoadVideo(**options)({"video_path": path, "seed": (seed,)})["inputs"]["video"]


def test_a_clip_for_training_is_cropped_and_mirrored_as_one(clip):
    plain = load(clip)
    assert (plain.shape, plain.dtype) == ((4, 3, 16, 16), torch.uint8)
    brightness = plain.float().mean((1, 2, 3))
    assert (brightness.diff() > 5).all()  # in the order of time
    torch.testing.assert_close(load(clip, flip=1.0), plain.flip(-1))
    crops = [load(clip, seed, crop_scale=(0.3, 0.5)).float() for seed in range(5)]
    for crop in crops:
        change = crop.diff(dim=0)
        assert (change - change.mean((1, 2, 3), keepdim=True)).abs().max() < 3
    assert len({round(crop.mean().item(), 2) for crop in crops}) == 5
    assert torch.equal(load(clip, 3), load(clip, 3))


def test_views_are_clips_times_crops_and_the_ends_of_the_longer_side(clip):
    views = load(clip, clips=2, crops=3)
    assert views.shape == (6, 4, 3, 16, 16)
    middle, left, right = views[:3].float().mean((1, 2, 3, 4))
    assert left < middle < right
    assert load(clip, clips=1).shape == (1, 4, 3, 16, 16)
    assert crop_boxes((20, 12), 3) == [(4, 0, 16, 12), (0, 0, 12, 12), (8, 0, 20, 12)]
    assert crop_boxes((12, 20), 1) == [(0, 4, 12, 16)]


def test_the_controls_and_the_cache_read_the_same_frames(clip):
    filmed, single = load(clip, clips=1)[0], load(clip, clips=1, order="single")[0]
    assert all(torch.equal(frame, filmed[2]) for frame in single)
    shuffled = load(clip, clips=1, order="shuffled")[0]
    assert sorted(x.sum().item() for x in shuffled) == [x.sum().item() for x in filmed]
    step = LoadVideo(4, 2, 16, clips=1, cache=True)
    for _ in range(2):
        again = step({"video_path": clip, "seed": (0,)})["inputs"]["video"]
        assert torch.equal(again[0], filmed)


@pytest.mark.parametrize(
    "options",
    [dict(size=0), dict(crops=2), dict(clips=-1), dict(flip=2), dict(clips=1, flip=0.5),
     dict(crop_scale=(0, 1)), dict(alpha="no colour")],
)  # fmt: skip
def test_options_that_make_no_clip(options):
    with pytest.raises(ValueError, match=r"size|clips|crop_scale|alpha"):
        LoadVideo(**options)


def test_a_table_names_files_and_folders_and_broken_ones_are_replaced(clip, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (90 * i,) * 3).save(folder / f"{i}.png")
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    table = tmp_path / "train.tsv"
    rows = ["video\tlabel", "a.webp\tup", "frames\tdown", "broken.gif\tup", "absent.webp\tup"]
    table.write_text("\n".join(rows))
    data = LabelledDataset(
        "train.tsv",
        "label",
        ["up", "down"],
        columns=dict(video="video"),
        data_root=str(tmp_path),
        pipeline=[dict(type="mmonepeace.LoadVideo", num_frames=2, interval=None, size=16), *STEPS],
        max_broken=0.9,
    )
    first, second = data[0], data[1]
    assert first["inputs"]["video"].shape == (2, 3, 16, 16)
    assert first["data_samples"].video_path == clip
    assert second["data_samples"].gt_label == 1
    for i in (2, 3):
        assert data[i]["inputs"]["video"].shape == (2, 3, 16, 16)
    assert data.broken.counts == {"missing": 1, "video": 1}
