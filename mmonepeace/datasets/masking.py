"""Masks of pretraining: ratios, and pure functions of a random generator.

Pretraining masks a sample in two views: unimodal, each modality on its own, and joint. Each function
returns the visible positions, sorted int64, as `Tokens.keep` takes them: of both views, unimodal
first, or of one. Position 0 is CLS, which is never masked; the end token of a text is not either.

Source of counts and ratios: arXiv 2305.11172 and the official data sets.
"""

import math

import numpy as np

# Stage -> fraction that is masked, of each modality and view.
MASK_RATIOS = {
    "vl": {"text": 0.15, "image": 0.75, "joint_text": 0.4, "joint_image": 0.6875},
    "al": {"audio": 0.55, "joint_text": 0.4, "joint_audio": 0.45},
}
_NEVER_MASKED = np.zeros(1, dtype=bool)  # CLS, and the end token of a text


def keep_patches(
    rng: np.random.Generator, patches: int, ratio: float = 0.75, joint_ratio: float = 0.6875
) -> tuple[np.ndarray, np.ndarray]:
    """Mask single patches; the joint view first masks those that the unimodal view shows.

    Of `patches`, CLS not counted, `ratio` are masked in the unimodal view and `joint_ratio` in the
    joint one, rounded down.
    """
    unimodal = np.zeros(patches, dtype=bool)
    unimodal[rng.permutation(patches)[: int(patches * ratio)]] = True
    joint = _mask_visible_first(rng, unimodal, int(patches * joint_ratio))
    return _kept(unimodal), _kept(joint)


def keep_tokens(
    rng: np.random.Generator,
    is_word_start: np.ndarray,
    ratio: float = 0.15,
    joint_ratio: float = 0.4,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask whole words in the unimodal view, and tokens in the joint one, visible ones first.

    `ratio` is the fraction of words, rounded up, and `joint_ratio` that of tokens, rounded down.
    `is_word_start` is (tokens,) bool, without the end token.
    """
    unimodal = _mask_words(rng, is_word_start, ratio)
    joint = _mask_visible_first(rng, unimodal, int(len(unimodal) * joint_ratio))
    return _kept(unimodal, _NEVER_MASKED), _kept(joint, _NEVER_MASKED)


def keep_words(
    rng: np.random.Generator, is_word_start: np.ndarray, ratio: float = 0.4
) -> np.ndarray:
    """The unimodal view of `keep_tokens`, with the ratio of texts that are joined with audio."""
    return _kept(_mask_words(rng, is_word_start, ratio), _NEVER_MASKED)


def keep_frames(
    rng: np.random.Generator, frames: int, ratio: float = 0.55, span: int = 5, extra: float = 0.1
) -> np.ndarray:
    """Mask spans of frames, then single ones until exactly int(frames * ratio) are masked.

    CLS is not counted. A span has `span` frames, fewer at the ends. Spans overlap: `extra` is added
    to `ratio` for their number.
    """
    mask = np.zeros(frames, dtype=bool)
    target = int(frames * ratio)
    if target:
        centres = rng.integers(frames, size=int(frames * ((ratio + extra) / span)))
        reach = np.arange(span) - span // 2
        mask[np.clip(centres[:, None] + reach, 0, frames - 1)] = True
        surplus = int(mask.sum()) - target
        candidates = np.flatnonzero(mask if surplus > 0 else ~mask)
        mask[rng.permutation(candidates)[: abs(surplus)]] = surplus < 0
    return _kept(mask)


def _mask_words(rng: np.random.Generator, is_word_start: np.ndarray, ratio: float) -> np.ndarray:
    """A word is its start and the tokens up to the next start."""
    words = int(is_word_start.sum())
    chosen = rng.permutation(words)[: math.ceil(words * ratio)]
    return np.isin(np.cumsum(is_word_start) - 1, chosen)


def _mask_visible_first(rng: np.random.Generator, mask: np.ndarray, count: int) -> np.ndarray:
    """Another mask with `count` entries: first what `mask` leaves visible, then the rest."""
    order = rng.permutation(len(mask))
    order = order[np.argsort(mask[order], kind="stable")]
    other = np.zeros_like(mask)
    other[order[:count]] = True
    return other


def _kept(*masks: np.ndarray) -> np.ndarray:
    """Positions that are not masked, CLS first."""
    return np.flatnonzero(~np.concatenate([_NEVER_MASKED, *masks]))
