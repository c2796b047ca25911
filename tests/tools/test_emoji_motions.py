"""Videos of the demo data: pairs that are each other backwards, poses that say nothing alone."""

import random
import sys
from collections import Counter

import numpy as np
from PIL import Image

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import emoji_motions
import emoji_scenes
from emoji_motions import CLASSES, FRAMES, PAIRS

from mmonepeace.datasets.video_io import open_video

ARROW = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
    '<path d="M0 0 L10 5 L0 10 Z" fill="#ff0000"/></svg>'
)


def test_a_pair_is_one_video_in_both_directions(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_scenes, "_DRAWINGS", {"val": {1: [ARROW]}})
    (tmp_path / "val").mkdir()
    for index in range(4):
        emoji_motions.make_video(tmp_path, "val", index, 32, 0)
    first, second, third, _ = (open_video(tmp_path / f"val/{i:05}.webp") for i in range(4))
    assert len(first) == FRAMES
    frames, backwards, others = (
        [np.asarray(x) for x in video.frames(range(FRAMES))] for video in (first, second, third)
    )
    assert all(np.array_equal(*two) for two in zip(frames, backwards[::-1], strict=True))
    assert not np.array_equal(frames[0], others[0])
    assert [emoji_motions.label_of(i) for i in range(4)] == [*PAIRS[0], *PAIRS[1]]
    before = (tmp_path / "val/00001.webp").stat().st_mtime_ns
    emoji_motions.make_video(tmp_path, "val", 1, 32, 0)
    assert (tmp_path / "val/00001.webp").stat().st_mtime_ns == before


def test_motions_are_what_their_names_say():
    def ends(axis):
        found = emoji_motions.poses(axis, random.Random(5))
        return found[0], found[-1]

    first, last = ends(0)
    assert (last.x > first.x, last[1:]) == (True, first[1:])
    first, last = ends(1)
    assert last.y > first.y  # downwards
    first, last = ends(2)
    assert last.width > first.width
    first, last = ends(3)
    assert 60 < last.angle - first.angle < 180  # Pillow turns anticlockwise
    image = emoji_motions.draw(
        emoji_scenes.emoji_sets.render(ARROW, 64), Image.new("RGB", (32, 32)), emoji_motions.Pose(0.25, 0.75, 0.4, 0)
    )  # fmt: skip
    red = np.asarray(image)[..., 0] > 128
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() - 24) < 2
    assert abs(columns.mean() - 8) < 3


def test_the_pose_in_the_middle_is_drawn_alike_for_all_motions():
    for axis in range(len(PAIRS)):
        found = emoji_motions.poses(axis, random.Random(7))
        middle = emoji_motions.middle_pose(random.Random(7))
        halves = [
            (a + b) / 2 for a, b in zip(found[FRAMES // 2 - 1], found[FRAMES // 2], strict=True)
        ]
        np.testing.assert_allclose(halves, middle, rtol=0.01)
    counts = Counter(emoji_motions.label_of(i) for i in range(400))
    assert set(counts) == set(CLASSES)
    assert set(counts.values()) == {50}
