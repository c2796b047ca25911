"""ONE-PEACE base with UPerNet on ADE20K at 640 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_upernet_ade20k-640.py 8 --checkpoint WEIGHTS
Needs:  ADE20K in data/ade; 8 GPUs, 2 images each
        weights of this size from your own pretraining (none are released), or train longer
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/ade20k_640.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(
        arch="base",
        img_size=640,
        out_indices=[3, 5, 7, 11],
        drop_path_rate=0.2,
    ),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768] * 4, channels=512, num_classes=150),
    auxiliary_head=dict(in_channels=768, channels=256, num_classes=150),
    test_cfg=dict(mode="slide", crop_size=(640, 640), stride=(426, 426)),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(decay_rate=0.9))
