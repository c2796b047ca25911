#!/bin/sh
# mmsegmentation pads labels of half the size by as many pixels as the image, and trains on that.
#
# One would guess: after SegRescale(scale_factor=0.5), which is there to save memory in the loss,
# SegDataPreProcessor pads the labels to half the size of the padded image.
# What happens: it adds the padding of the image, in pixels, to the smaller labels. For images of
# one size nothing fails: heads stretch their logits to the size of the labels, and a prediction
# that is right everywhere has an accuracy of 87.5 % (62.5 % at a quarter of the size); the loss is
# as wrong. Images of several sizes in a batch end in an error that does not speak of padding.
# Who meets it: whoever adds SegRescale to a recipe whose images are padded in the batch: smaller
# than the crop, or not multiples of size_divisor.
# Versions: onedl-mmsegmentation 1.4.2 (a fork of mmsegmentation), torch 2.13.0, numpy 2.2.6; seen
# on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 onedl-mmsegmentation==1.4.2 onedl-mmcv==2.3.6 \
    onedl-mmengine==0.10.12 numpy==2.2.6 ftfy==6.3.1 regex==2026.11.15 setuptools==81.0.0
"$folder/venv/bin/python" -W ignore - > "$folder/log" <<'PYTHON'
import numpy as np
import torch
from mmseg.datasets.transforms import PackSegInputs, SegRescale
from mmseg.models import SegDataPreProcessor
from mmseg.models.decode_heads import FCNHead

preprocess = SegDataPreProcessor(size=(512, 512), pad_val=0, seg_pad_val=255)
head = FCNHead(num_convs=0, in_channels=2, channels=2, num_classes=2, concat_input=False)


def batch(sides, scale):
    """Images whose lower half is white, with labels that say so."""
    packed = []
    for side in sides:
        white = np.zeros((side, side), np.uint8)
        white[side // 2:] = 1
        sample = dict(
            img=255 * np.stack([white] * 3, 2), gt_seg_map=white, seg_fields=["gt_seg_map"])
        packed.append(PackSegInputs(meta_keys=())(SegRescale(scale)(sample)))
    data = {key: [sample[key] for sample in packed] for key in packed[0]}
    return preprocess(data, training=True)


def accuracy(sides, scale):
    data = batch(sides, scale)
    white = data["inputs"][:, :1] / 255
    logits = torch.cat([1 - white, white], 1)  # Right in all pixels of the padded image.
    return head.loss_by_feat(logits, data["data_samples"])["acc_seg"].item()


def show(*words):
    print("seen:", *words)


for side in (384, 512):
    for scale in (1, 0.5, 0.25):
        height, width = batch([side], scale)["data_samples"][0].gt_sem_seg.data.shape[1:]
        show(f"{side} px, labels x {scale}: padded to {height} x {width}, "
             f"accuracy {accuracy([side], scale):.1f} %")
show(f"384 and 512 px, labels x 1: accuracy {accuracy([384, 512], 1):.1f} %")
try:
    accuracy([384, 512], 0.5)
except RuntimeError as error:
    show("384 and 512 px, labels x 0.5:", str(error).partition(",")[0])
PYTHON
sed -n 's/^seen: //p' "$folder/log" > "$folder/seen"
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
384 px, labels x 1: padded to 512 x 512, accuracy 100.0 %
384 px, labels x 0.5: padded to 320 x 320, accuracy 87.5 %
384 px, labels x 0.25: padded to 224 x 224, accuracy 62.5 %
512 px, labels x 1: padded to 512 x 512, accuracy 100.0 %
512 px, labels x 0.5: padded to 256 x 256, accuracy 100.0 %
512 px, labels x 0.25: padded to 128 x 128, accuracy 100.0 %
384 and 512 px, labels x 1: accuracy 100.0 %
384 and 512 px, labels x 0.5: stack expects each tensor to be equal size
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
