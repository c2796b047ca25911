#!/bin/sh
# torchaudio's pitch_shift builds a resampling kernel of a gigabyte for a shift by one semitone.
#
# One would guess: shifting a clip of a few seconds costs about what stretching and resampling it
# cost, milliseconds, whatever the interval, so that it can augment clips while training.
# What happens: the clip is resampled from int(rate / 2 ** (-n / 12)) to its rate. For most intervals
# the two have no large common divisor, and torchaudio's resampler has one filter for each of the output
# samples of a common period: 16,000 filters of 16,965 taps for one semitone at 16 kHz, 1.1 GB, made
# anew in each call. An octave, whose ratio is 2, needs a single filter.
# Who meets it: whoever puts pitch_shift or PitchShift of a random interval into a data pipeline:
# gigabytes in each worker, and most of a minute for a clip. A resampler that takes any ratio, such
# as soxr, needs no such kernel.
# Versions: torchaudio 2.11.1, torch 2.13.0, numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch===2.13.0 torchaudio==2.11.1 numpy==2.2.6
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import torch
from torchaudio import functional
from torchaudio.functional import functional as inner

real, kernels = inner._get_sinc_resample_kernel, []


def recorded(*args, **kwargs):
    kernel, width = real(*args, **kwargs)
    kernels.append(kernel.shape)
    return kernel[:1], width  # enough to go on: the rest would take most of a minute


inner._get_sinc_resample_kernel = recorded
for steps in (1, 2, -3, 12):
    functional.pitch_shift(torch.randn(1, 16000), 16000, steps)
    filters, _, taps = kernels[-1]
    print(f"{steps:+d} semitones: {filters} filters of {taps} taps, {filters * taps * 4 / 1e6:.1f} MB")
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
+1 semitones: 16000 filters of 16965 taps, 1085.8 MB
+2 semitones: 16000 filters of 17973 taps, 1150.3 MB
-3 semitones: 8000 filters of 6741 taps, 215.7 MB
+12 semitones: 1 filters of 28 taps, 0.0 MB
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
