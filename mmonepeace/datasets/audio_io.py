"""Audio files to mono float32 at 16 kHz, and the policy for their length.

A waveform has S samples, (S,). The official order: `load_audio`, `standardise` the whole clip, then
`fit_length`; or `split_windows`, to embed all of a long clip.
"""

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from mmonepeace.datasets.sample_errors import AudioError, check_exists, decoding, reason
from mmonepeace.spec import (
    LAYER_NORM_EPS,
    MAX_AUDIO_SECONDS,
    MIN_AUDIO_SECONDS,
    SAMPLE_RATE,
    num_audio_frames,
)

MAX_CHANNELS = 1024  # more is an array of (channels, samples)
RATES = (1000, 1_000_000)  # Hz; what is outside is a damaged header, not a recording
MAX_HOURS = 4  # takes 1.8 GB while it is read and standardised
# Bytes. A program that cannot go back to the header, as of a pipe, writes 0 or such a size into it.
_UNKNOWN_SIZE = 2**31 - 2**16
_BLOCK = 4096  # samples that are decoded at once: an error loses no more than that
_STANDARDISED_AT_ONCE = 2**24  # samples
_CANCELLED = 1e-6  # power of the mean, of that of the channels: -60 dB


def load_audio(path: str | Path | bytes) -> np.ndarray:
    """Decode a file, or the bytes of one: wav, flac, ogg, mp3 and all else that libsndfile reads.

    A truncated or damaged file gives the samples before the damage. Where its format notices that,
    as flac and wav do, there is a warning with its name, as there is for a clip that is shorter than
    a frame of the model. What a header says of the length is not trusted.

    Returns:
        (S,) float32 at 16 kHz; integer samples are divided by their full scale.

    Raises:
        AudioError: if the file is missing, no audio, empty or longer than `MAX_HOURS`, its rate is
            outside `RATES`, or samples are infinite or NaN.
    """
    source: BytesIO | bytes
    if isinstance(path, bytes):
        name, source = "audio in memory", BytesIO(path)
    else:
        check_exists(path, AudioError)
        name, source = str(path), os.fsencode(path)  # the library refuses names beyond UTF-8
    fix = "Convert it to wav or flac, or leave it out."
    with decoding(AudioError, name, fix):
        is_cut = _is_cut_wav(source)
        with _open(source) as file:
            return _to_mono_16k(_decoded(file, name, is_cut), file.samplerate, name)


class _Stream(soundfile.SoundFile):
    """A file that is read from its begin to its end: seeking fails where the length is unknown."""

    def seekable(self) -> bool:
        return False


def _open(source: BytesIO | bytes) -> _Stream:
    try:
        return _Stream(source)
    except soundfile.LibsndfileError as error:
        said = error.error_string.rstrip(".")
        fix = "Convert it to wav or flac, or leave it out."
        raise AudioError(f"it is not audio of a known format ({said}). {fix}") from None


def _is_cut_wav(source: BytesIO | bytes) -> bool:
    """Whether a .wav ends before its samples do, by its header: libsndfile does not tell."""
    with nullcontext(source) if isinstance(source, BytesIO) else open(source, "rb") as file:
        head = file.read(12)
        order: Literal["little", "big"] = "big" if head.startswith(b"RIFX") else "little"
        is_cut = False
        while head[:4] in (b"RIFF", b"RIFX") and len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], order)
            if chunk.startswith(b"data"):
                end = file.tell() + size
                is_cut = size < _UNKNOWN_SIZE and end > file.seek(0, os.SEEK_END)
                break
            file.seek(size + size % 2, os.SEEK_CUR)
        file.seek(0)
    return is_cut


def _decoded(file: _Stream, name: object, is_cut: bool) -> Iterator[np.ndarray]:
    """(samples, channels) blocks of a file, up to its end or the first that cannot be decoded."""
    count, fault = 0, "its header states more samples than it has." if is_cut else ""
    file.seek(0)  # as soundfile.read does: the decoder of mp3 rounds differently without
    while True:
        try:
            block = file.read(_BLOCK, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            if not count:
                raise
            block, fault = np.zeros(0), reason(error)
        if not len(block):
            if fault and count:
                after = f"only the first {count / file.samplerate:.2f} s of it can be decoded"
                warnings.warn(f"{name} is damaged: {after}: {fault}", stacklevel=2)
            return
        count += len(block)
        yield block


def to_mono_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mean over the channels, then the resampler of the official code (soxr, quality HQ).

    `samples` are (S,) or (S, C), floats, or integers that use the full scale; `rate` is in Hz.
    Channels that cancel each other, and clips shorter than a frame of the model, give a warning.

    Returns:
        (ceil(S * 16000 / rate),) float32; bit for bit the input if it is mono float32 at 16 kHz.

    Raises:
        AudioError: for no samples, infinite or NaN samples, another shape, more than `MAX_HOURS`,
            or a rate outside `RATES`.
    """
    if samples.ndim not in (1, 2) or samples.shape[1:] > (MAX_CHANNELS,):
        raise AudioError(f"expected (samples,) or (samples, channels), got {samples.shape}.")
    blocks = (samples[i : i + _BLOCK] for i in range(0, len(samples), _BLOCK))
    return _to_mono_16k(blocks, rate, "a clip")


def _to_mono_16k(blocks: Iterable[np.ndarray], rate: int, name: object) -> np.ndarray:
    """`to_mono_16k` of blocks: no more than the result is ever in memory."""
    low, high = RATES
    if not low <= rate <= high:
        raise AudioError(f"the sample rate is {rate} Hz, expected {low:,} to {high:,}.")
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", "HQ")
    parts: list[np.ndarray] = []
    count, bad, mono_power, power = 0, 0, 0.0, 0.0
    for block in blocks:
        with np.errstate(over="ignore", invalid="ignore"):  # checked below
            channels = _to_float(block)
            wave = channels.mean(1) if channels.ndim == 2 else channels
            if channels.ndim == 2 and channels.shape[1] > 1:
                mono_power += float(np.square(wave, dtype=np.float64).sum())
                power += float(np.square(channels, dtype=np.float64).sum() / channels.shape[1])
        count += wave.size
        if count > MAX_HOURS * 3600 * rate:
            raise AudioError(f"it is longer than {MAX_HOURS} hours. Cut it into shorter parts.")
        bad += int((~np.isfinite(wave)).sum())
        if not bad:
            parts.append(wave if rate == SAMPLE_RATE else resampler.resample_chunk(wave))
    if not count:
        raise AudioError("it has no samples. Leave it out.")
    if bad:
        raise AudioError(f"{bad} of {count} samples are infinite or NaN. Export it again.")
    if power and mono_power < _CANCELLED * power:
        warnings.warn(
            f"{name}: its channels cancel each other, so that their mean, which is all that the "
            "model gets, is silent. Invert one of them, or keep one.",
            stacklevel=3,
        )
    if not num_audio_frames(count * SAMPLE_RATE // rate):
        warnings.warn(
            f"{name} is shorter than a frame of the model: it has {1000 * count / rate:.3g} ms, expected "
            "25 or more. Repeated, it is a hum: get a longer clip, or leave it out.",
            stacklevel=3,
        )
    if rate == SAMPLE_RATE:
        return np.concatenate(parts)
    parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    resampled = np.concatenate(parts)
    # The library rounds the length, the official code takes the next integer above.
    missing = -(-count * SAMPLE_RATE // rate) - len(resampled)
    return np.pad(resampled, (0, missing)) if missing > 0 else resampled[: len(resampled) + missing]


def standardise(wave: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over the clip, a layer norm without weights; silence stays."""
    # Long clips in parts: double precision takes twice the memory.
    parts = [
        wave[i : i + _STANDARDISED_AT_ONCE] for i in range(0, len(wave), _STANDARDISED_AT_ONCE)
    ]
    mean = sum(part.astype(np.float64).sum() for part in parts) / len(wave)
    variance = sum(np.square(part - mean, dtype=np.float64).sum() for part in parts) / len(wave)
    scale = math.sqrt(variance + LAYER_NORM_EPS)
    result = np.empty(len(wave), np.float32)
    for i, part in enumerate(parts):
        start = i * _STANDARDISED_AT_ONCE
        result[start : start + len(part)] = (part.astype(np.float64) - mean) / scale
    return result


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
