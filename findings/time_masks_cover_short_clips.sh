#!/bin/sh
# torchaudio's TimeMasking blanks short clips whole, and p=0.99 is far from p=1.0.
#
# One would guess: a mask is placed within the clip, as in the paper of SpecAugment, so that hardly
# a clip is masked whole, and the default p=1.0, the "maximum proportion of time steps that can be
# masked", differs little from p=0.99.
# What happens: only a p below 1 limits the width of masks. With the default, masks are as wide as
# time_mask_param allows, and one that is wider than the clip starts before it and covers it all:
# TimeMasking(100) blanks half of all clips with 50 frames, and none of them with p=0.99. As widths
# are rounded down, TimeMasking(1) never masks a frame.
# Who meets it: whoever takes the widths of SpecAugment's policies, 70 or 100 frames for utterances
# of many seconds, to short clips: spoken digits, keywords, notes. A blank clip still has its label.
# Versions: torchaudio 2.11.1, torch 2.13.0, numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch===2.13.0 torchaudio==2.11.1 numpy==2.2.6
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import torch
from torchaudio.transforms import SpecAugment, TimeMasking

torch.manual_seed(0)


def show(name, mask, frames):
    clips = torch.ones(2000, 1, 80, frames)
    masked = (mask(clips)[:, 0, 0] == 0).sum(1)
    print(f"{name}: longest mask {masked.max()} of {frames} frames, "
          f"share of clips masked whole {(masked == frames).float().mean():.1f}")


for frames in (50, 80, 200):
    show("TimeMasking(100)", TimeMasking(100, iid_masks=True), frames)
for p in (0.99, 0.5):
    show(f"TimeMasking(100, p={p})", TimeMasking(100, iid_masks=True, p=p), 50)
spec_augment = SpecAugment(
    n_time_masks=1, time_mask_param=100, n_freq_masks=0, freq_mask_param=0, zero_masking=True)
show("SpecAugment with time_mask_param=100", spec_augment, 50)
show("TimeMasking(1)", TimeMasking(1, iid_masks=True), 50)
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
TimeMasking(100): longest mask 50 of 50 frames, share of clips masked whole 0.5
TimeMasking(100): longest mask 80 of 80 frames, share of clips masked whole 0.2
TimeMasking(100): longest mask 99 of 200 frames, share of clips masked whole 0.0
TimeMasking(100, p=0.99): longest mask 48 of 50 frames, share of clips masked whole 0.0
TimeMasking(100, p=0.5): longest mask 24 of 50 frames, share of clips masked whole 0.0
SpecAugment with time_mask_param=100: longest mask 50 of 50 frames, share of clips masked whole 0.5
TimeMasking(1): longest mask 0 of 50 frames, share of clips masked whole 0.0
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
