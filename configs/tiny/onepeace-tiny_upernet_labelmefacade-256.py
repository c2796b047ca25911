"""ONE-PEACE tiny with UPerNet on LabelMeFacade at 256 px, from scratch on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_upernet_labelmefacade-256.py \
            --data-root DIR
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; about 15 minutes on one core
Expect: 48.5 mIoU on val (mean of three seeds)
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/labelmefacade_256.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
]
max_iters = 2200
norm_cfg = dict(type="BN", requires_grad=True)
# Near the inverse square roots of the shares of pixels: without them, windows are not learned.
class_weight = [0.6, 1.3, 3.5, 1.9, 0.9, 0.9, 1.1, 2.4]
head = dict(
    num_classes=8,
    dropout_ratio=0.0,
    norm_cfg=norm_cfg,
    loss_decode=dict(class_weight=class_weight),
)
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
    decode_head=dict(in_index=[0, 1, 2], channels=32, **head),
    auxiliary_head=dict(in_index=2, channels=32, **head),
)
crop_size = (192, 192)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(1024, 256), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    # For images smaller than a crop: labels of half the size cannot be padded like images.
    dict(type="Pad", size=crop_size, pad_val=dict(img=0, seg=255)),
    dict(type="SegRescale", scale_factor=0.5),  # a loss of a quarter of the pixels is cheaper
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
