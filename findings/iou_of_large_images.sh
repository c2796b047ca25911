#!/bin/sh
# Of a map of 36 megapixels that is half wrong, mmsegmentation's IoUMetric says: 100 % accurate.
#
# One would guess: scores are ratios of numbers of pixels, whatever the size of the images.
# What happens: on CPUs, IoUMetric counts with torch.histc of float32, which adds 1 at a time in
# float32. As 2**24 + 1 is no float32 number, the count of a class stops at 16777216 pixels of an
# image (in each thread, so that scores change with torch.set_num_threads). Of tiles of the same map
# all scores are right, and so is the count of float64.
# Who meets it: whoever scores whole aerial or medical images on a CPU, or with predictions moved to
# the CPU to save memory of the GPU, and has a class that covers most of an image, such as ground.
# ISPRS Potsdam, for example, has images of 6000 x 6000 pixels.
# Versions: onedl-mmsegmentation 1.4.2 (a fork of mmsegmentation, which counts in the same way),
# torch 2.13.0, numpy 2.2.6; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 onedl-mmsegmentation==1.4.2 onedl-mmcv==2.3.6 \
    onedl-mmengine==0.10.12 numpy==2.2.6 ftfy==6.3.1 regex==2026.11.15 setuptools==81.0.0
"$folder/venv/bin/python" -W ignore - > "$folder/log" <<'PYTHON'
import torch
from mmseg.evaluation import IoUMetric

torch.set_num_threads(1)
label = torch.zeros(6000, 6000, dtype=torch.uint8)
label[:400] = 1
prediction = label.clone()
prediction[400:3200] = 1  # Half of the ground is called building.


def score(pieces):
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=("ground", "building"))
    for part in pieces:
        metric.process({}, [dict(
            pred_sem_seg=dict(data=prediction[part]), gt_sem_seg=dict(data=label[part]))])
    scores = metric.compute_metrics(metric.results)
    return f"aAcc {scores['aAcc']:.1f}, mAcc {scores['mAcc']:.1f}, mIoU {scores['mIoU']:.1f}"


right = (prediction == label).double().mean().item()
print(f"seen: pixels that are right: {100 * right:.1f} %")
print("seen: one image:", score([slice(None)]))
tiles = [slice(top, top + 1500) for top in range(0, 6000, 1500)]
print("seen: four tiles:", score(tiles))
print(f"seen: pixels of ground: {(label == 0).sum().item()}")
for dtype in (torch.float32, torch.float64):
    count = torch.histc(label.to(dtype), bins=2, min=0, max=1)[0].item()
    print(f"seen: of {dtype}, torch.histc counts: {count:.0f}")
PYTHON
sed -n 's/^seen: //p' "$folder/log" > "$folder/seen"
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
pixels that are right: 53.3 %
one image: aAcc 100.0, mAcc 100.0, mIoU 57.2
four tiles: aAcc 53.3, mAcc 75.0, mIoU 31.2
pixels of ground: 33600000
of torch.float32, torch.histc counts: 16777216
of torch.float64, torch.histc counts: 33600000
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
