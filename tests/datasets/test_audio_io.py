import os

import numpy as np
import pytest
import soundfile

from mmonepeace.datasets import audio_io
from mmonepeace.datasets.audio_io import (
    fit_length,
    load_audio,
    split_windows,
    standardise,
    to_mono_16k,
)
from mmonepeace.datasets.sample_errors import AudioError
from mmonepeace.spec import SAMPLE_RATE


def tone(hertz, rate, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def noise(*shape):
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype("f4")


@pytest.mark.parametrize(
    ("suffix", "rate", "atol"),
    [("wav", 16000, 4e-5), ("flac", 44100, 4e-5), ("ogg", 22050, 0.03), ("mp3", 48000, 0.03)],
)
def test_formats_decode_to_the_same_waveform(suffix, rate, atol, tmp_path):
    left, right = tone(440, rate), tone(1000, rate)
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.stack([left, right], 1), rate)
    wave = load_audio(path)
    expected = (tone(440, SAMPLE_RATE) + tone(1000, SAMPLE_RATE)) / 2
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    inner = slice(1000, 15000)  # codecs and filters swing at the ends
    np.testing.assert_allclose(wave[inner], expected[inner], atol=atol)


def test_16_khz_is_untouched(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    expected = samples.astype(np.float32) / 32768
    assert np.array_equal(load_audio(tmp_path / "clip.wav"), expected)
    assert np.array_equal(to_mono_16k(samples, SAMPLE_RATE), expected)
    assert np.array_equal(to_mono_16k(expected[:, None], SAMPLE_RATE), expected)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 44101, 48000, 96000])
def test_resampling_keeps_tones_and_lengths(rate):
    hertz = 0.4 * min(rate, SAMPLE_RATE)  # four fifths of the way to the lower Nyquist frequency
    samples = tone(hertz, rate, 0.5)
    wave = to_mono_16k(samples, rate)
    assert wave.dtype == np.float32
    assert len(wave) == -(-len(samples) * SAMPLE_RATE // rate)
    expected = tone(hertz, SAMPLE_RATE, 0.5)
    inner = slice(1000, 7000)
    np.testing.assert_allclose(wave[inner], expected[inner], atol=2e-4)


@pytest.mark.parametrize("hertz", [8000, 8500, 12000, 21000])
def test_frequencies_above_8_khz_are_removed(hertz):
    wave = to_mono_16k(tone(hertz, 44100), 44100)
    assert np.abs(wave[1000:-1000]).max() < 1e-5


def test_channels_are_averaged_before_anything_else():
    stereo = noise(3000, 2)
    mono = to_mono_16k(stereo.mean(1), 44100)
    assert np.array_equal(to_mono_16k(stereo, 44100), mono)


@pytest.mark.parametrize(
    ("integers", "expected"),
    [
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),
        (np.array([0, 2**15, 2**15 + 2**14], np.uint16), [-1, 0, 0.5]),
    ],
)
def test_integers_are_divided_by_full_scale(integers, expected):
    wave = to_mono_16k(np.repeat(integers, 400), SAMPLE_RATE)
    assert wave[::400].tolist() == expected


def test_standardising_gives_zero_mean_and_unit_variance():
    wave = standardise(0.2 * noise(50_000) + 0.3)
    assert wave.dtype == np.float32
    assert abs(wave.mean(dtype=float)) < 1e-6
    assert wave.std(dtype=float) == pytest.approx(1, abs=1e-3)


def test_silence_stays_silence_and_loudness_does_not_matter():
    assert not standardise(np.zeros(100, np.float32)).any()
    loud = standardise(noise(1000) * np.float32(1e37))
    assert np.isfinite(loud).all()
    np.testing.assert_allclose(loud, standardise(noise(1000) * 1e6), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 15_999, 16_000, 16_001, 240_000, 240_001])
def test_lengths_are_fitted(count):
    wave = noise(count)
    fitted = fit_length(wave)
    assert len(fitted) == min(max(count, 16_000), 240_000)
    assert np.array_equal(fitted, np.tile(wave, -(-len(fitted) // count))[: len(fitted)])


def test_length_limits_are_arguments():
    wave = noise(40_000)
    assert len(fit_length(wave, max_seconds=2)) == 32_000
    assert np.array_equal(fit_length(wave, max_seconds=None), wave)
    assert len(fit_length(wave, max_seconds=None, min_seconds=3)) == 48_000


@pytest.mark.parametrize("count", [1, 80, 160, 161, 239, 240, 241, 1000, 1601])
def test_windows_cover_all_of_a_clip(count):
    seconds = {"window_seconds": 160 / SAMPLE_RATE, "hop_seconds": 80 / SAMPLE_RATE}
    clip = np.arange(count)
    windows = split_windows(clip, **seconds)
    assert np.array_equal(np.unique(np.concatenate(windows)), clip)
    assert {len(window) for window in windows} == {min(count, 160)}
    assert windows[0][0] == 0
    assert windows[-1][-1] == count - 1
    starts = [window[0] for window in windows]
    assert starts == sorted(set(starts))
    assert all(map(np.array_equal, windows, split_windows(clip, **seconds)))


def test_windows_with_gaps_are_refused():
    for hop in (0, -1, 16):
        with pytest.raises(ValueError, match="at most window_seconds"):
            split_windows(noise(100), 15, hop)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0), 16000, "no samples"),
        (np.zeros((0, 2)), 16000, "no samples"),
        (np.zeros((2, 40000)), 16000, "samples, channels"),
        (np.zeros((2, 3, 4)), 16000, "samples, channels"),
        (np.array([0.0, np.nan, np.inf]), 16000, "2 of 3 samples"),
        (np.array([1e300]), 16000, "1 of 1 samples"),
        (np.array([True]), 16000, "type bool"),
        (np.zeros(10), 0, "0 Hz"),
    ],
)
def test_unusable_samples_are_refused(samples, rate, message):
    with pytest.raises(AudioError, match=message):
        to_mono_16k(samples, rate)


@pytest.mark.filterwarnings("ignore:a clip is shorter")
def test_one_sample_of_any_rate_is_a_clip():
    for rate in (8000, 16000, 44100):
        wave = fit_length(standardise(to_mono_16k(np.array([0.5]), rate)))
        assert len(wave) == SAMPLE_RATE
        assert np.isfinite(wave).all()


def test_errors_name_the_file(tmp_path):
    empty, text, cut, bad = (tmp_path / n for n in ("empty.wav", "text.mp3", "cut.flac", "bad.wav"))
    soundfile.write(empty, np.zeros(0), 16000)
    text.write_text("this is not audio")
    soundfile.write(cut, noise(20_000), 16000)
    cut.write_bytes(cut.read_bytes()[:9000])
    soundfile.write(bad, np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    expected = {
        tmp_path / "none.wav": "no such file",
        tmp_path: "no such file",
        empty: "no samples",
        text: "not audio of a known format",
        cut: "cannot be decoded",
        bad: "1 of 2 samples",
    }
    for path, message in expected.items():
        with pytest.raises(AudioError, match=message) as caught:
            load_audio(path)
        assert str(path) in str(caught.value)


def flac_of_unknown_length(path, wave, rate=48_000):
    """As a program writes it that cannot go back to the header, such as to a pipe."""
    soundfile.write(path, wave, rate)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    return path


def test_a_length_that_a_header_does_not_tell_or_exaggerates_does_not_matter(tmp_path):
    wave = noise(20_000)
    soundfile.write(tmp_path / "a.flac", wave, 48_000)
    expected = load_audio(tmp_path / "a.flac")
    assert np.array_equal(load_audio(flac_of_unknown_length(tmp_path / "b.flac", wave)), expected)
    soundfile.write(tmp_path / "c.wav", wave, 48_000)
    content = bytearray((tmp_path / "c.wav").read_bytes())
    for whole, size in ((8, 0), (0x7FFFF024, 0x7FFFF000), (0, 2**31 - 1), (2**32 - 1, 2**32 - 1)):
        content[4:8], content[40:44] = (n.to_bytes(4, "little") for n in (whole, size))
        assert len(load_audio(bytes(content))) == len(expected)


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_file_gives_what_comes_before_and_a_warning_with_its_name(known, tmp_path):
    path = flac_of_unknown_length(tmp_path / "a.flac", noise(48_000), SAMPLE_RATE)
    if known:
        soundfile.write(path, noise(48_000), SAMPLE_RATE)
    whole = load_audio(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"a\.flac is damaged: only the first 1\.\d+ s of it can"):
        part = load_audio(path)
    assert 16_000 < len(part) < 32_000
    assert np.array_equal(part, whole[: len(part)])
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(path)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("order", "more"), [("LITTLE", b""), ("LITTLE", b"LIST\3\0\0\0abc\0"), ("BIG", b"")]
)
def test_a_wav_that_was_cut_is_a_warning_with_what_is_left(in_memory, order, more, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(48_000, 2), 48_000, endian=order)
    content = path.read_bytes()
    path.write_bytes(content[:36] + more + content[36:])  # chunks in front of that of the samples
    whole = load_audio(path)
    path.write_bytes(path.read_bytes()[:100_000])
    name = "audio in memory" if in_memory else str(path)
    with pytest.warns(UserWarning, match=r"is damaged: only the first 0\.52 s of it can") as said:
        part = load_audio(path.read_bytes() if in_memory else path)
    assert str(said[0].message).startswith(name)
    assert len(part) == pytest.approx(0.52 * SAMPLE_RATE, rel=0.01)
    assert np.allclose(part[:8000], whole[:8000], atol=1e-4)


@pytest.mark.parametrize(("count", "rate"), [(1, 8000), (16, 16_000), (441, 44_100), (399, 16_000)])
def test_a_clip_shorter_than_a_frame_is_a_warning(count, rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(count), rate)
    with pytest.warns(UserWarning, match=r"a\.wav is shorter than a frame .* ms, expected 25 or"):
        assert len(load_audio(tmp_path / "a.wav"))
    with pytest.warns(UserWarning, match="a clip is shorter"):
        to_mono_16k(noise(count), rate)


def test_a_clip_of_a_frame_is_none():
    assert len(to_mono_16k(noise(400), SAMPLE_RATE)) == 400


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_rates_that_no_recording_has_are_refused(rate, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(4000), 8000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(AudioError, match=rf"a\.wav: .*{rate} Hz, expected 1,000 to 1,000,000"):
        load_audio(path)


def test_clips_of_many_hours_are_refused(monkeypatch):
    monkeypatch.setattr(audio_io, "MAX_HOURS", 1 / 3600)
    assert len(to_mono_16k(noise(8000), 8000)) == SAMPLE_RATE
    with pytest.raises(AudioError, match=r"longer than .* hours. Cut it"):
        to_mono_16k(noise(8001), 8000)


def test_channels_that_cancel_are_a_warning(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([noise(9000), -noise(9000)], 1), SAMPLE_RATE)
    with pytest.warns(UserWarning, match=r"a\.wav: its channels cancel each other"):
        wave = load_audio(tmp_path / "a.wav")
    assert np.abs(wave).max() < 1e-4
    wave = noise(9000)
    for other in (-0.9 * wave, 0 * wave):
        assert to_mono_16k(np.stack([wave, other], 1), SAMPLE_RATE).any()
    assert not to_mono_16k(np.zeros((9000, 2)), SAMPLE_RATE).any(), "silence is what it is"


def test_blocks_change_nothing(monkeypatch):
    wave = noise(50_000).reshape(-1, 2)
    for rate in (16_000, 44_100, 8000):
        with monkeypatch.context() as patch:
            expected = to_mono_16k(wave, rate)
            patch.setattr(audio_io, "_BLOCK", 777)
            assert np.array_equal(to_mono_16k(wave, rate), expected)
    monkeypatch.setattr(audio_io, "_STANDARDISED_AT_ONCE", 10_000)
    parts = standardise(wave[:, 0])
    monkeypatch.undo()
    assert np.allclose(parts, standardise(wave[:, 0]), rtol=0, atol=1e-6)


def test_odd_names_and_contents_are_named(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(os.fsencode(odd), noise(9000), SAMPLE_RATE, format="WAV")
    assert len(load_audio(odd)) == 9000
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(1000))
    long = tmp_path / f"{'x' * 300}.wav"
    for path, message in (
        (raw, "not audio|cannot be decoded"),
        (long, "no such file"),
        ("a\0b", "no such"),
    ):
        with pytest.raises(AudioError, match=message) as caught:
            load_audio(path)
        assert str(path) in str(caught.value)
