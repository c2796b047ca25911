"""The released ONE-PEACE segmentor on ADE20K at 896 px for test-time augmentation, 40k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_vit-adapter_mask2former_ade20k-896-ms.py 16
Needs:  ADE20K in data/ade; 16 GPUs, 1 image each; mmdetection, mmcv with compiled ops
        a COCO-Stuff model, in work_dirs/ (see needs_weights); only its classes start anew
Expect: with `tools/test.py --tta` the official figure is 62.98 mIoU; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former-1024.py",
    "../_base_/datasets/ade20k_896.py",
    "../_base_/schedules/40k.py",
    "../_base_/runtime.py",
]
needs_weights = (
    "the segmentor that onepeace-giant_vit-adapter_mask2former_coco-stuff164k-896.py trains: its "
    "authors did not publish theirs"
)
model = dict(
    backbone=dict(
        arch="giant",
        img_size=896,
        drop_path_rate=0.5,
        with_cp=True,
    ),
    decode_head=dict(
        in_channels=[1536] * 4,
        num_classes=150,
        loss_cls=dict(class_weight=[1.0] * 150 + [0.1]),
    ),
    test_cfg=dict(mode="slide", crop_size=(896, 896), stride=(512, 512)),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-5), paramwise_cfg=dict(decay_rate=0.95, preset="official-segmentation")
)
load_from = "work_dirs/onepeace-giant_vit-adapter_mask2former_coco-stuff164k-896/iter_80000.pth"
default_hooks = dict(checkpoint=dict(interval=4000))
