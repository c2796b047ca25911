"""ONE-PEACE base with ViT-Adapter and Mask2Former on ADE20K at 512 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_vit-adapter_mask2former_ade20k-512.py 8 --checkpoint WEIGHTS
Needs:  ADE20K in data/ade; 8 GPUs, 2 images each; mmdetection, mmcv with compiled ops
        weights of this size from your own pretraining (none are released), or train longer
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former-256.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(
        arch="base",
        img_size=512,
        drop_path_rate=0.2,
    ),
    decode_head=dict(
        in_channels=[768] * 4,
        num_classes=150,
        loss_cls=dict(class_weight=[1.0] * 150 + [0.1]),
    ),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(decay_rate=0.9))
default_hooks = dict(checkpoint=dict(interval=16000))
