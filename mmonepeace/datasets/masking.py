"""Masks of pretraining: pure functions of a random generator.

Each returns the positions that stay visible, sorted int64, as `Tokens.keep` takes them: 0 is CLS,
which is never hidden, and the end token of a text never is either.

Source of counts and ratios: arXiv 2305.11172 and the official data sets.
"""

import math

import numpy as np

CLS = np.zeros(1, dtype=bool)
EOS = np.zeros(1, dtype=bool)


def keep_patches(
    rng: np.random.Generator, patches: int, ratio: float = 0.75, joint_ratio: float = 0.6875
) -> tuple[np.ndarray, np.ndarray]:
    """Single patches; the joint view hides what the lone view shows, and others after that.

    Args:
        rng: source of randomness.
        patches: number of patches, CLS not counted.
        ratio: share hidden in the lone view, rounded down.
        joint_ratio: the same for the joint view.

    Returns:
        positions kept in the lone and in the joint view.
    """
    alone = np.zeros(patches, dtype=bool)
    alone[rng.permutation(patches)[: int(patches * ratio)]] = True
    joint = _hide_visible_first(rng, alone, int(patches * joint_ratio))
    return _kept(CLS, alone), _kept(CLS, joint)


def keep_tokens(
    rng: np.random.Generator,
    is_word_start: np.ndarray,
    ratio: float = 0.15,
    joint_ratio: float = 0.4,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole words in the lone view; single tokens in the joint one, those visible alone first.

    Args:
        rng: source of randomness.
        is_word_start: (tokens,) bool, the end token not counted.
        ratio: share of words hidden in the lone view, rounded up.
        joint_ratio: share of tokens hidden in the joint view, rounded down.

    Returns:
        positions kept in the lone and in the joint view.
    """
    alone = _hide_words(rng, is_word_start, ratio)
    joint = _hide_visible_first(rng, alone, int(len(alone) * joint_ratio))
    return _kept(CLS, alone, EOS), _kept(CLS, joint, EOS)


def keep_words(
    rng: np.random.Generator, is_word_start: np.ndarray, ratio: float = 0.4
) -> np.ndarray:
    """The lone view of `keep_tokens`, with the ratio of texts beside sounds."""
    return _kept(CLS, _hide_words(rng, is_word_start, ratio), EOS)


def keep_frames(
    rng: np.random.Generator, frames: int, ratio: float = 0.55, span: int = 5, extra: float = 0.1
) -> np.ndarray:
    """Spans of frames, then single ones until exactly int(frames * ratio) are hidden.

    Args:
        rng: source of randomness.
        frames: number of frames, CLS not counted.
        ratio: share hidden, rounded down.
        span: length of a span; those at the ends are cut.
        extra: added to `ratio` in the number of spans, because they overlap.

    Returns:
        positions kept.
    """
    hidden = np.zeros(frames, dtype=bool)
    target = int(frames * ratio)
    if target:
        centres = rng.integers(frames, size=int(frames * ((ratio + extra) / span)))
        reach = np.arange(span) - span // 2
        hidden[np.clip(centres[:, None] + reach, 0, frames - 1)] = True
        surplus = int(hidden.sum()) - target
        candidates = np.flatnonzero(hidden if surplus > 0 else ~hidden)
        hidden[rng.permutation(candidates)[: abs(surplus)]] = surplus < 0
    return _kept(CLS, hidden)


def _hide_words(rng: np.random.Generator, is_word_start: np.ndarray, ratio: float) -> np.ndarray:
    """A word is its start and the tokens up to the next start."""
    words = int(is_word_start.sum())
    chosen = rng.permutation(words)[: math.ceil(words * ratio)]
    return np.isin(np.cumsum(is_word_start) - 1, chosen)


def _hide_visible_first(rng: np.random.Generator, hidden: np.ndarray, count: int) -> np.ndarray:
    """Another mask of `count`, of what `hidden` shows as long as there is any."""
    order = rng.permutation(len(hidden))
    order = order[np.argsort(hidden[order], kind="stable")]
    other = np.zeros_like(hidden)
    other[order[:count]] = True
    return other


def _kept(*hidden: np.ndarray) -> np.ndarray:
    return np.flatnonzero(~np.concatenate(hidden))
