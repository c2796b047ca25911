"""Random changes of training clips that `PerturbAudio` does not make, through torchaudio."""

import math

import numpy as np
import soxr
import torch
from mmcv.transforms import BaseTransform

from mmonepeace.datasets import audio_io
from mmonepeace.datasets.transforms import Results, generator
from mmonepeace.registry import TRANSFORMS

_FFT, _HOP = 1024, 128  # samples of a frame, and from one to the next


@TRANSFORMS.register_module()
class ShiftPitch(BaseTransform):
    """Change the pitch of a clip at random, not its speed; after `LoadAudio` or `PerturbAudio`.

    The clip keeps its length and is standardised again.

    Args:
        semitones: largest change to either side; formants move too.
        probability: of a change.
    """

    def __init__(self, semitones: float = 2.0, probability: float = 0.5) -> None:
        if not 0 < semitones <= 24 or not 0 <= probability <= 1:
            raise ValueError(
                f"semitones is {semitones} and probability {probability}; expected above 0 to 24, and "
                "0 to 1."
            )
        self.semitones = semitones
        self.probability = probability

    def transform(self, results: Results) -> Results:
        """Replace `inputs["audio"]`."""
        if "audio" not in results.get("inputs", {}):
            raise KeyError("inputs have no audio. Put LoadAudio before ShiftPitch.")
        rng = generator(results, self)
        semitones = rng.uniform(-self.semitones, self.semitones)
        if rng.random() < self.probability:
            wave = shift_pitch(results["inputs"]["audio"].numpy(), semitones)
            results["inputs"]["audio"] = torch.from_numpy(audio_io.standardise(wave))
        return results


def shift_pitch(wave: np.ndarray, semitones: float) -> np.ndarray:
    """Change the pitch of a waveform (S,): a phase vocoder makes it longer, the resampler as long again.

    `torchaudio.functional.pitch_shift` does the same, but its own resampler builds a kernel of a
    gigabyte, see `findings/pitch_shift_builds_a_gigabyte.sh`; and frames that begin with a mirror image of
    the clip, as there, lose a part of a tone when stretched: here they begin with silence.
    """
    from torchaudio.functional import phase_vocoder

    rate = 2 ** (semitones / 12)
    window = torch.hann_window(_FFT)
    spectrum = torch.stft(
        torch.from_numpy(wave), _FFT, _HOP, window=window, pad_mode="constant", return_complex=True
    )
    advance = torch.linspace(0, math.pi * _HOP, _FFT // 2 + 1)[:, None]
    stretched = phase_vocoder(spectrum, 1 / rate, advance)
    longer = torch.istft(stretched, _FFT, _HOP, window=window, length=round(len(wave) * rate))
    shifted = soxr.resample(longer.numpy(), rate, 1.0, "HQ")[: len(wave)]
    return np.pad(shifted, (0, len(wave) - len(shifted))).astype(np.float32)
