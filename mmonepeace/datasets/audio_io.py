"""Audio files to mono float32 at 16 kHz, and the policy for their length.

A waveform has S samples, (S,). The official order: `load_audio`, `standardise` the whole clip, then
`fit_length`; or `split_windows`, to embed all of a long clip.
"""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr

from mmonepeace.spec import LAYER_NORM_EPS, MAX_AUDIO_SECONDS, MIN_AUDIO_SECONDS, SAMPLE_RATE

MAX_CHANNELS = 1024  # more is an array of (channels, samples)


class AudioError(ValueError):
    """Audio that cannot be used. The message gives the file, the problem and the fix."""


def load_audio(path: str | Path | bytes) -> np.ndarray:
    """Decode a file, or the bytes of one: wav, flac, ogg, mp3 and all else that libsndfile reads.

    A truncated file gives the samples that it still has, if its format lets them be read.

    Returns:
        (S,) float32 at 16 kHz; integer samples are divided by their full scale.

    Raises:
        AudioError: if the file is missing, broken or empty, or has infinite or NaN samples.
    """
    name, source = ("audio in memory", BytesIO(path)) if isinstance(path, bytes) else (path, path)
    if not isinstance(path, bytes) and not Path(path).is_file():
        raise AudioError(f"{path}: no such file. Check the path and the data root.")
    try:
        return to_mono_16k(*soundfile.read(source, dtype="float32", always_2d=True))
    except soundfile.SoundFileError as error:
        fix = "Convert it to wav or flac, or leave it out."
        raise AudioError(f"{name} cannot be decoded: {error} {fix}") from None
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from None


def to_mono_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mean over the channels, then the resampler of the official code (soxr, quality HQ).

    `samples` are (S,) or (S, C), floats, or integers that use the full scale; `rate` is in Hz.

    Returns:
        (ceil(S * 16000 / rate),) float32; bit for bit the input if it is mono float32 at 16 kHz.

    Raises:
        AudioError: for no samples, infinite or NaN samples, another shape, or a rate below 1.
    """
    if samples.ndim not in (1, 2) or samples.shape[1:] > (MAX_CHANNELS,):
        raise AudioError(f"expected (samples,) or (samples, channels), got {samples.shape}.")
    if samples.size == 0:
        raise AudioError("it has no samples. Leave it out.")
    if rate < 1:
        raise AudioError(f"the sample rate is {rate} Hz, expected at least 1.")
    with np.errstate(over="ignore", invalid="ignore"):  # checked in the next line
        wave = _to_float(samples)
        wave = wave.mean(1) if wave.ndim == 2 else wave
    if bad := int((~np.isfinite(wave)).sum()):
        raise AudioError(f"{bad} of {wave.size} samples are infinite or NaN. Export it again.")
    if rate == SAMPLE_RATE:
        return wave
    resampled = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ")
    # The library rounds the length, the official code takes the next integer above.
    missing = -(-len(wave) * SAMPLE_RATE // rate) - len(resampled)
    return np.pad(resampled, (0, missing)) if missing > 0 else resampled[: len(resampled) + missing]


def standardise(wave: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the clip, a layer norm without weights; silence stays."""
    centred = wave.astype(np.float64)
    centred -= centred.mean()
    return (centred / math.sqrt(np.square(centred).mean() + LAYER_NORM_EPS)).astype(np.float32)


def fit_length(
    wave: np.ndarray,
    max_seconds: float | None = MAX_AUDIO_SECONDS,
    min_seconds: float = MIN_AUDIO_SECONDS,
) -> np.ndarray:
    """Keep the first `max_seconds` (all with None); repeat a short clip up to `min_seconds`."""
    if max_seconds is not None:
        wave = wave[: round(max_seconds * SAMPLE_RATE)]
    shortest = round(min_seconds * SAMPLE_RATE)
    return np.resize(wave, shortest) if len(wave) < shortest else wave


def split_windows(
    wave: np.ndarray, window_seconds: float = MAX_AUDIO_SECONDS, hop_seconds: float = 7.5
) -> list[np.ndarray]:
    """Cut a clip into windows that cover it, one every `hop_seconds`; the last ends with the clip.

    A clip that fits into one window is that window.

    Raises:
        ValueError: if a hop would leave a gap.
    """
    window, hop = round(window_seconds * SAMPLE_RATE), round(hop_seconds * SAMPLE_RATE)
    if not 0 < hop <= window:
        raise ValueError(
            f"hop_seconds {hop_seconds} must be above 0 and at most window_seconds "
            f"{window_seconds}, or parts of the clip are lost."
        )
    last = len(wave) - window
    return [wave[start : start + window] for start in (*range(0, last, hop), max(last, 0))]


def _to_float(samples: np.ndarray) -> np.ndarray:
    """float32; integers scaled to -1..1, unsigned ones with silence in the middle."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if samples.dtype.kind not in "iu":
        raise AudioError(f"samples of type {samples.dtype} are neither integers nor floats.")
    full_scale = 2.0 ** (8 * samples.itemsize - 1)
    silence = full_scale if samples.dtype.kind == "u" else 0.0
    return ((samples - silence) / full_scale).astype(np.float32)
