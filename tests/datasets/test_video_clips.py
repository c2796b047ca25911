"""Which frames are a clip: laws of the sampling."""

from itertools import pairwise

import numpy as np
import pytest

from mmonepeace.datasets.video_clips import VideoClip


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [1, 5, 31, 32, 33, 300])
def test_clips_have_their_interval_and_stay_inside(count):
    clip = VideoClip(8, 4)
    for positions in (clip.random(count, rng()), *clip.views(count, 3, rng())):
        assert len(positions) == 8
        assert all(0 <= x < count for x in positions)
        steps = {(b - a) % count for a, b in pairwise(positions)}
        assert steps == {4 % count}


def test_random_clips_reach_both_ends_and_views_divide_the_video():
    clip = VideoClip(4, 5)
    starts = {clip.random(40, rng(i))[0] for i in range(300)}
    assert starts == set(range(40 - 20 + 1))
    assert [view[0] for view in clip.views(320, 3, rng())] == [50, 150, 250]


def test_without_an_interval_each_part_has_a_frame():
    clip = VideoClip(4, None)
    assert clip.views(8, 1, rng()) == [[1, 3, 5, 7]]
    assert clip.views(8, 2, rng()) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    for i in range(20):
        assert [x // 2 for x in clip.random(8, rng(i))] == [0, 1, 2, 3]
    assert clip.views(2, 1, rng()) == [[0, 0, 1, 1]]


def test_controls_have_the_same_frames_in_disorder_or_the_middle_one():
    filmed = VideoClip(8, None).views(64, 1, rng())[0]
    shuffled = VideoClip(8, None, "shuffled").views(64, 1, rng())[0]
    assert shuffled != filmed
    assert sorted(shuffled) == filmed
    assert VideoClip(8, None, "single").views(64, 1, rng()) == [[filmed[4]] * 8]


@pytest.mark.parametrize("options", [dict(num_frames=0), dict(interval=0), dict(order="back")])
def test_options_that_make_no_clip(options):
    with pytest.raises(ValueError, match=r"num_frames|order"):
        VideoClip(**options)
