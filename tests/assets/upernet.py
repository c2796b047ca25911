"""A small segmentor with UPerNet for tests of tools and checks, which rely on what is in it.

The recipe of the demo and its pipelines may change; these stay. Its data are those of `seg_data`.
"""

_base_ = [
    "../../configs/_base_/models/onepeace_upernet.py",
    "../../configs/_base_/datasets/emoji_scenes_128.py",
    "../../configs/_base_/schedules/tiny.py",
    "../../configs/_base_/runtime.py",
]
crop_size = (128, 128)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(160, 160), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
workers = dict(num_workers=2, persistent_workers=True)
train_dataloader = dict(**workers, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(**workers, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    backbone=dict(
        arch="tiny", img_size=crop_size[0], out_indices=[2, 5, 8, 11], layer_scale_init=0.03
    ),
    neck=dict(norm_cfg=norm_cfg),
    decode_head=dict(channels=64, num_classes=9, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=9, norm_cfg=norm_cfg),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(checkpoint=dict(interval=60))
