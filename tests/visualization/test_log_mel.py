import numpy as np
import pytest
from torchaudio.functional import melscale_fbanks

from mmonepeace.visualization.log_mel import BANDS, log_mel


def loudest(hertz, samples=16_000):
    """Row of the loudest pitch of a tone."""
    image = log_mel(np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000))
    assert image.shape[0] == BANDS == 96
    assert 0 <= image.min() <= image.max() == 1
    return int(image.mean(1).argmax())


def test_pitch_is_drawn_from_high_to_low():
    assert loudest(6000) < loudest(1000) < loudest(200)
    assert loudest(1000, 40) < 96  # shorter than a window
    assert log_mel(np.zeros(500)).max() == 1  # silence


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_rows_are_even_on_the_mel_scale(hertz):
    filters = melscale_fbanks(8001, 40.0, 8000, 96, 16_000)
    assert abs(loudest(hertz) - (95 - int(filters[hertz].argmax()))) <= 1


def test_every_row_can_be_loud():
    """No pitch is left out, though the lowest bands are narrower than the resolution."""
    noise = np.random.default_rng(0).normal(size=16_000)
    assert (log_mel(noise).max(1) > 0.5).mean() > 0.9
