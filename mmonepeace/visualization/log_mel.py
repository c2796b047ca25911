"""Pictures of sounds: loudness over time and pitch."""

import warnings
from functools import cache

import numpy as np

from mmonepeace.spec import SAMPLE_RATE

BANDS = 96
WINDOW, FRAMES, DECIBELS = 1024, 240, 60  # samples of a frame, columns at least, range of colours
_LOWEST = 40.0  # Hz


@cache
def _filters() -> np.ndarray:
    """(WINDOW / 2 + 1, BANDS), from low to high."""
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        # The lowest bands are narrower than what frames of this length can resolve.
        warnings.filterwarnings("ignore", "At least one mel filterbank")
        size = WINDOW // 2 + 1
        return melscale_fbanks(size, _LOWEST, SAMPLE_RATE / 2, BANDS, SAMPLE_RATE).numpy()


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Log-mel spectrogram of an audio clip (S,) at 16 kHz, for drawing.

    (96, T) in 0..1: from 8 kHz, in the first row, down to 40 Hz; 1 is its loudest place, 0 is 60 dB
    less.
    """
    padded = np.pad(wave, WINDOW // 2)
    hop = max(len(wave) // FRAMES, 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)))
    decibels = 10 * np.log10((power @ _filters()).T[::-1] + 1e-10)
    return np.clip((decibels - decibels.max()) / DECIBELS + 1, 0, 1)
