#!/bin/sh
# In mmsegmentation, weights of classes and a mean over labelled pixels exclude each other.
#
# One would guess: CrossEntropyLoss(class_weight=..., avg_non_ignore=True) is the weighted mean over
# the pixels that are not ignored, which is what each option alone promises, and what PyTorch gives.
# What happens: IndexError in the first step, whatever the labels, with or without ignored ones: the
# weights of the labelled pixels are one list, which is then indexed with a mask of the images. With
# class_weight alone the mean is over the weights of the labelled pixels already: avg_non_ignore is
# to be left out, although a warning of the class recommends it.
# Who meets it: whoever weights rare classes of a set with unlabelled pixels, such as Cityscapes, and
# follows that warning.
# Versions: onedl-mmsegmentation 1.4.2 (a fork of mmsegmentation), torch 2.13.0; seen on 2026-11-30.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 onedl-mmsegmentation==1.4.2 onedl-mmcv==2.3.6 \
    onedl-mmengine==0.10.12 numpy==2.2.6 ftfy==6.3.1 regex==2026.11.15 setuptools==81.0.0
"$folder/venv/bin/python" -W ignore - > "$folder/log" <<'PYTHON'
import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss

torch.manual_seed(0)
logits, weights = torch.randn(2, 3, 8, 8), [1.0, 2.0, 3.0]
complete = torch.randint(3, (2, 8, 8))
partly = complete.masked_fill(torch.rand(2, 8, 8) < 0.3, 255)
for name, labels in (("complete", complete), ("partly ignored", partly)):
    plain = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=255)
    for counted in (False, True):
        loss = CrossEntropyLoss(class_weight=weights, avg_non_ignore=counted)
        try:
            value = loss(logits, labels, ignore_index=255)
            found = "as PyTorch" if torch.allclose(value, plain) else "another value"
        except IndexError as error:
            found = f"IndexError, {error}"
        print(f"seen: {name}, avg_non_ignore={counted}: {found}")
PYTHON
sed -n 's/^seen: //p' "$folder/log" > "$folder/seen"
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
complete, avg_non_ignore=False: as PyTorch
complete, avg_non_ignore=True: IndexError, too many indices for tensor of dimension 1
partly ignored, avg_non_ignore=False: as PyTorch
partly ignored, avg_non_ignore=True: IndexError, too many indices for tensor of dimension 1
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
