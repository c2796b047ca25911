"""The released ONE-PEACE segmentor on ADE20K at 896 px, 40k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_vit-adapter_mask2former_ade20k-896.py 16
Needs:  ADE20K in data/ade; 16 GPUs, 1 image each; mmdetection, mmcv with compiled ops
        a COCO-Stuff model in work_dirs/ (see needs_weights); only its classifier starts from scratch
Memory: a step of 1 holds 39.1 GB on each GPU, as mmonepeace estimate says; not measured
Expect: the official result is 62.0 mIoU, single scale; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former.py",
    "../_base_/datasets/ade20k_896.py",
    "../_base_/schedules/40k.py",
    "../_base_/runtime.py",
]
needs_weights = (
    "the segmentor that onepeace-giant_vit-adapter_mask2former_coco-stuff164k-896.py trains: its "
    "authors did not publish theirs"
)
model = dict(
    backbone=dict(arch="giant", img_size=_base_.crop_size[0], drop_path_rate=0.5, with_cp=True),
    decode_head=dict(num_classes=150),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-5), paramwise_cfg=dict(decay_rate=0.95, preset="official-segmentation")
)
load_from = "work_dirs/onepeace-giant_vit-adapter_mask2former_coco-stuff164k-896/iter_80000.pth"
default_hooks = dict(checkpoint=dict(interval=4000))
