import numpy as np
import pytest
import torch

from mmonepeace.datasets import ShiftPitch
from mmonepeace.datasets.audio_augmentation import shift_pitch


def tone(hertz, samples=24_000):
    return np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000).astype(np.float32)


def pitch(wave):
    """Hz of the loudest frequency."""
    return np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * 16_000 / len(wave)


@pytest.mark.parametrize("semitones", [-12, -2.5, 1, 7])
@pytest.mark.parametrize("hertz", [220, 1500])
def test_the_pitch_moves_and_neither_length_nor_loudness_does(hertz, semitones):
    wave = shift_pitch(tone(hertz), semitones)
    assert wave.shape == (24_000,)
    assert wave.dtype == np.float32
    assert pitch(wave) == pytest.approx(hertz * 2 ** (semitones / 12), abs=1)
    assert wave[2000:-2000].std() == pytest.approx(0.5**0.5, rel=0.06)


def test_the_beat_stays_the_same_to_a_fortieth_of_a_second():
    clicks = np.zeros(32_000, np.float32)
    clicks[4000::4000] = 1
    wave = np.abs(shift_pitch(clicks, 3))
    loud = [int(wave[i : i + 2000].argmax()) + i for i in range(3000, 30_000, 4000)]
    np.testing.assert_allclose(loud, np.arange(4000, 29_000, 4000), atol=400)


@pytest.mark.parametrize("samples", [1, 400, 1023, 16_001])
def test_any_length_is_kept(samples):
    assert shift_pitch(tone(300, samples), -3).shape == (samples,)


def record(seed):
    return {"inputs": {"audio": torch.from_numpy(tone(440))}, "seed": (0, seed)}


def test_samples_depend_on_their_seed_alone_and_are_standardised():
    transform = ShiftPitch(3)
    first, again = ([transform(record(i))["inputs"]["audio"] for i in range(40)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    changed = [x for x in first if not torch.equal(x, torch.from_numpy(tone(440)))]
    assert 8 < len(changed) < 32
    for wave in changed:
        assert wave.std() == pytest.approx(1, abs=0.01)
        assert abs(12 * np.log2(pitch(wave.numpy()) / 440)) < 3.02


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="semitones is 0"):
        ShiftPitch(0)
    with pytest.raises(ValueError, match="probability 2"):
        ShiftPitch(probability=2)
    with pytest.raises(KeyError, match="Put LoadAudio"):
        ShiftPitch()({"seed": (0,)})
