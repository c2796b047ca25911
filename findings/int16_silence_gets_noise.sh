#!/bin/sh
# soxr adds noise to 16-bit audio: digital silence is no longer silent once it is resampled.
#
# One would guess: resampling is linear, so that zeros give zeros, and samples of 16 bits come out
# as those of a float signal do, rounded.
# What happens: int16 output is dithered, and no argument turns that off. Of digital silence about a
# quarter of the samples become -1 or 1, and the error of a tone is 0.50 steps (RMS) where rounding
# has 0.29. The noise has a fixed seed: all clips get the same. Of float32, float64 and int32,
# silence stays silent.
# Who meets it: whoever hands the samples of a 16-bit WAV file to soxr as they are, and then drops
# clips that are all zero, trims silence, or takes the logarithm of a spectrum with a low floor.
# Versions: soxr 1.1.0, numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q soxr==1.1.0 numpy==2.2.6
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import numpy as np
import soxr

rates = (44100, 16000)
for dtype in ("int16", "int32", "float32", "float64"):
    silence = soxr.resample(np.zeros(44100, dtype), *rates)
    print(f"{dtype} silence: values {sorted(set(silence.tolist()))}")

first, second = (soxr.resample(np.zeros(44100, np.int16), *rates) for _ in range(2))
print(f"of int16 silence not zero: {np.mean(first != 0):.0%} of the samples, twice the same: "
      f"{np.array_equal(first, second)}")

tone = np.round(8000 * np.sin(0.05 * np.arange(44100))).astype(np.int16)
exact = soxr.resample(tone.astype(np.float64), *rates)
print(f"error of an int16 tone: {np.std(soxr.resample(tone, *rates) - exact):.2f}")
print(f"error of the float64 tone, rounded: {np.std(np.round(exact) - exact):.2f}")
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
int16 silence: values [-1, 0, 1]
int32 silence: values [0]
float32 silence: values [0.0]
float64 silence: values [0.0]
of int16 silence not zero: 23% of the samples, twice the same: True
error of an int16 tone: 0.50
error of the float64 tone, rounded: 0.29
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
