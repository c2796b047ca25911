"""ONE-PEACE tiny with UPerNet on LabelMeFacade at 256 px, from scratch on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny_upernet_labelmefacade-256.py \
            --data-root DIR
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; about 15 minutes on one core
Expect: 35.1 mIoU after 500 steps (train_cfg.max_iters=500 param_scheduler.1.end=500, one seed),
        5 minutes on one core; all 1600 steps are not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/labelmefacade_256.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
]
max_iters = 1600
norm_cfg = dict(type="BN", requires_grad=True)
head = dict(num_classes=8, dropout_ratio=0.0, norm_cfg=norm_cfg)
model = dict(
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256, stem="overlapping"),
        img_size=_base_.crop_size[0],
        stem_maps=True,
        out_indices=[2],
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    neck=None,
    decode_head=dict(in_index=[0, 1, 2], channels=48, **head),
    auxiliary_head=dict(in_index=2, channels=48, **head),
)
crop_size = (192, 192)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(1024, 256), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
