#!/bin/sh
# Label maps shrunk with OpenCV's nearest neighbour are not where the image is.
#
# One would guess: "nearest" takes the pixel nearest to the centre of a new pixel, as Pillow does, so that
# a label map shrunk by 4 stays aligned with logits that are resized with align_corners=False.
# What happens: INTER_NEAREST takes the first pixel of each block, 1.5 px off at a quarter of the size and
# 3.5 px at an eighth; INTER_NEAREST_EXACT and Pillow take one next to the centre, 0.5 px off.
# Who meets it: whoever computes a segmentation loss at a lower resolution through mmcv.imrescale, which has
# INTER_NEAREST for labels: SegRescale of mmsegmentation and mmdetection (HTC's recipes have 1/8).
# Versions: numpy 2.2.6, opencv-python-headless 4.12.0.88, Pillow 12.0.0; seen on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.2.6 opencv-python-headless==4.12.0.88 Pillow==12.0.0
"$folder/venv/bin/python" - > "$folder/seen" <<'PYTHON'
import cv2
import numpy as np
from PIL import Image

# Each pixel holds the position of its centre: what a shrunk map holds says where it was taken.
width = 240
position = np.tile(np.arange(width, dtype=np.uint8), (width, 1))
for factor in (2, 4, 8):
    size = (width // factor,) * 2
    wanted = (np.arange(size[0]) + 0.5) * factor - 0.5
    shrunk = {
        "cv2.INTER_NEAREST": cv2.resize(position, size, interpolation=cv2.INTER_NEAREST),
        "cv2.INTER_NEAREST_EXACT": cv2.resize(position, size, interpolation=cv2.INTER_NEAREST_EXACT),
        "Pillow NEAREST": np.asarray(Image.fromarray(position).resize(size, Image.NEAREST)),
    }
    for name, labels in shrunk.items():
        print(f"1/{factor} {name}: {np.mean(labels[0] - wanted):+.1f} px")
PYTHON
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
1/2 cv2.INTER_NEAREST: -0.5 px
1/2 cv2.INTER_NEAREST_EXACT: +0.5 px
1/2 Pillow NEAREST: +0.5 px
1/4 cv2.INTER_NEAREST: -1.5 px
1/4 cv2.INTER_NEAREST_EXACT: +0.5 px
1/4 Pillow NEAREST: +0.5 px
1/8 cv2.INTER_NEAREST: -3.5 px
1/8 cv2.INTER_NEAREST_EXACT: +0.5 px
1/8 Pillow NEAREST: +0.5 px
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
