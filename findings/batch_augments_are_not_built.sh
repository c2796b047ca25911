#!/bin/sh
# mmsegmentation takes batch_augments in a config, evaluates with it, and fails in the first step.
#
# One would guess: batch_augments of SegDataPreProcessor, "list[dict]: batch-level augmentations" in
# its documentation, is built from the registry, as the option of that name of mmdetection's is.
# What happens: the list is kept as it is and called: TypeError, without a word of the option. Only
# one thing that can be called works, which no config file can hold; it is called after padding and
# normalisation, in training only.
# Who meets it: whoever moves mmdetection's batch augmentations, or Mixup and CutMix that the
# documentation mentions, to segmentation.
# Versions: onedl-mmsegmentation 1.4.2 (a fork of mmsegmentation), torch 2.13.0, numpy 2.2.6; seen
# on 2026-11-29.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 onedl-mmsegmentation==1.4.2 onedl-mmcv==2.3.6 \
    onedl-mmengine==0.10.12 numpy==2.2.6 ftfy==6.3.1 regex==2026.11.15 setuptools==81.0.0
"$folder/venv/bin/python" -W ignore - > "$folder/log" <<'PYTHON'
import torch
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

built = []


@MODELS.register_module()
class Negative:
    def __init__(self, strength):
        built.append(strength)

    def __call__(self, images, samples):
        return -images, samples


def data():
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.long))
    return dict(inputs=[torch.ones(3, 4, 4)], data_samples=[sample])


for name, option in (
    ("a list of configs", [dict(type="Negative", strength=1)]),
    ("a list of objects", [Negative(1)]),
    ("an object", Negative(1)),
):
    built.clear()
    preprocess = SegDataPreProcessor(size=(4, 4), batch_augments=option)
    evaluated = preprocess(data())["inputs"].mean().item()
    try:
        trained = preprocess(data(), training=True)["inputs"].mean().item()
    except TypeError as error:
        trained = f"TypeError, {error}"
    print(f"seen: {name}: {len(built)} built, evaluation {evaluated}, training {trained}")
PYTHON
sed -n 's/^seen: //p' "$folder/log" > "$folder/seen"
cat "$folder/seen"
cat > "$folder/expected" <<'SEEN'
a list of configs: 0 built, evaluation 1.0, training TypeError, 'list' object is not callable
a list of objects: 0 built, evaluation 1.0, training TypeError, 'list' object is not callable
an object: 0 built, evaluation 1.0, training -1.0
SEEN
diff "$folder/expected" "$folder/seen" && echo "as expected"
