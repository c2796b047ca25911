#!/bin/sh
# The FocalLoss of mmsegmentation computes on GPUs only, although it has a version in plain PyTorch.
#
# One would guess: a loss that falls back to plain PyTorch without a GPU gives the same value there,
# so that a recipe can be tried on a CPU.
# What happens: the fallback gets class indices where it expects one row of classes for each pixel.
# Logits (N, C, H, W) and labels (N, H, W) end in a RuntimeError about sizes that name neither; with
# labels already in one-hot form, which only direct calls can give, the same class computes.
# Who meets it: whoever tries a recipe with FocalLoss on a CPU, in a test or before renting a GPU.
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
from mmseg.models.losses import FocalLoss

torch.manual_seed(0)
logits, labels = torch.randn(2, 4, 8, 8), torch.randint(4, (2, 8, 8))
one_hot = F.one_hot(labels, 4).permute(0, 3, 1, 2)
for name, target in (("labels", labels), ("one-hot labels", one_hot)):
    try:
        found = f"a loss of {FocalLoss()(logits, target):.4f}"
    except RuntimeError as error:
        found = f"RuntimeError, {error}"
    print(f"seen: {name}: {found}")
PYTHON
sed -n 's/^seen: //p' "$folder/log" > "$folder/seen"
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
labels: RuntimeError, The size of tensor a (4) must match the size of tensor b (128) at non-singleton dimension 1
one-hot labels: a loss of 0.1818
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
