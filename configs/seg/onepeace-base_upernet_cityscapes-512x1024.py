"""ONE-PEACE base with UPerNet on Cityscapes, rectangular crops of 512 x 1024 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_upernet_cityscapes-512x1024.py 8 --checkpoint WEIGHTS
Needs:  Cityscapes in data/cityscapes; 8 GPUs, 2 images each
        weights of this size from your own pretraining (none are released), or train longer
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/cityscapes_512x1024.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(
        arch="base",
        img_size=512,
        out_indices=[3, 5, 7, 11],
        drop_path_rate=0.2,
    ),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768] * 4, channels=512, num_classes=19),
    auxiliary_head=dict(in_channels=768, channels=256, num_classes=19),
    test_cfg=dict(mode="slide", crop_size=(512, 1024), stride=(341, 683)),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(decay_rate=0.9))
