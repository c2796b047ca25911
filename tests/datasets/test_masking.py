import math

import numpy as np
import pytest

from mmonepeace.datasets.masking import keep_frames, keep_patches, keep_tokens, keep_words


def rng(seed=0):
    return np.random.default_rng(seed)


def masked_positions(keep, length):
    """Positions that are not kept, CLS and end token excluded from neither."""
    assert keep.dtype == np.int64
    assert np.array_equal(keep, np.unique(keep)), "sorted, each once"
    assert keep[0] == 0, "CLS stays"
    return set(range(length)) - set(keep.tolist())


def words(*lengths):
    """Word starts of words with so many tokens."""
    return np.concatenate([[True, *[False] * (n - 1)] for n in lengths]).astype(bool)


@pytest.mark.parametrize("patches", [1, 2, 3, 15, 16, 196, 256, 1024])
def test_patches_of_the_two_views_complement_each_other(patches):
    for seed in range(20):
        unimodal, joint = (
            masked_positions(keep, patches + 1) for keep in keep_patches(rng(seed), patches)
        )
        assert len(unimodal) == int(0.75 * patches)
        assert len(joint) == int(0.6875 * patches)
        visible = set(range(1, patches + 1)) - unimodal
        assert visible <= joint or joint <= visible, "first what the other view shows"


def test_every_patch_is_masked_equally_often():
    draws = [keep_patches(rng(seed), 16) for seed in range(2000)]
    for view, ratio in ((0, 0.75), (1, 0.6875)):
        kept = np.bincount(np.concatenate([d[view] for d in draws]), minlength=17)[1:] / 2000
        assert kept == pytest.approx(np.full(16, 1 - ratio), abs=0.05)


@pytest.mark.parametrize("lengths", [(1,) * 6, (1, 1, 5, 2, 1, 3), (7,), (1, 1), (2, 1) * 20])
def test_whole_words_in_the_unimodal_view_and_other_tokens_in_the_joint_one(lengths):
    starts = words(*lengths)
    end = len(starts) + 1
    for seed in range(20):
        unimodal, joint = (masked_positions(k, end + 1) for k in keep_tokens(rng(seed), starts))
        assert end not in unimodal | joint, "the end token stays"
        of_word = np.cumsum(starts)
        touched = {int(of_word[position - 1]) for position in unimodal}
        assert len(touched) == math.ceil(0.15 * len(lengths))
        assert len(unimodal) == sum(lengths[word - 1] for word in touched)
        assert len(joint) == int(0.4 * len(starts))
        others = len(starts) - len(unimodal)
        assert len(joint - unimodal) == min(len(joint), others)


def test_words_joined_with_audio_are_those_of_the_unimodal_view():
    starts = words(1, 3, 2, 1, 1)
    for seed in range(20):
        unimodal, _ = keep_tokens(rng(seed), starts, ratio=0.4)
        assert np.array_equal(keep_words(rng(seed), starts), unimodal)


@pytest.mark.parametrize(
    ("starts", "unimodal", "joint"),
    [([], [], []), ([True], [1], []), ([False], [], []), ([False, False, True], [3], None)],
)
def test_captions_without_words_or_with_one(starts, unimodal, joint):
    starts = np.array(starts, dtype=bool)
    keeps = keep_tokens(rng(), starts)
    masked = [sorted(masked_positions(keep, len(starts) + 2)) for keep in keeps]
    assert masked[0] == unimodal
    assert masked[1] == joint if joint is not None else len(masked[1]) == 1 and masked[1] != [3]


@pytest.mark.parametrize("ratio", [0.0, 0.45, 0.55, 1.0])
def test_exactly_the_ratio_of_frames_is_masked(ratio):
    for frames in [*range(60), 124, 749, 1023]:
        assert len(masked_positions(keep_frames(rng(frames), frames, ratio), frames + 1)) == int(
            frames * ratio
        )


def test_frames_are_masked_in_spans():
    frames, runs = 749, []
    for seed in range(50):
        visible = np.diff(keep_frames(rng(seed), frames))
        runs += (visible[visible > 1] - 1).tolist()
    fraction = np.bincount(runs, minlength=6) / len(runs)
    assert fraction[5] == pytest.approx(0.2255, abs=0.02)  # as the official sampler gives
    assert np.mean(runs) == pytest.approx(4.99, abs=0.15)


def test_the_same_seed_gives_the_same_mask_and_another_another():
    starts = words(*[1] * 30)
    for draw in (
        lambda r: np.concatenate(keep_patches(r, 256)),
        lambda r: np.concatenate(keep_tokens(r, starts)),
        lambda r: keep_frames(r, 300),
    ):
        assert np.array_equal(draw(rng(1)), draw(rng(1)))
        assert not np.array_equal(draw(rng(1)), draw(rng(2)))
