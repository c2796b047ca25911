"""ONE-PEACE tiny as an encoder-only mask transformer (EoMT) on emoji scenes, crops of 128 px at half size, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_eomt_emoji-128.py
Needs:  the data of `make demo-data`
Expect: 18.4 mIoU on val (one seed); about 5 minutes on one core beside other jobs
"""

_base_ = [
    "../_base_/models/onepeace_eomt.py",
    "../_base_/datasets/emoji_scenes_128.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
]
max_iters = 1200
model = dict(
    data_preprocessor=dict(augmentation=_base_.augmentation),
    backbone=dict(
        arch=dict(embed_dim=96, depth=4, num_heads=3, ffn_dim=192, stem="overlapping"),
        img_size=_base_.crop_size[0],
        num_queries=20,
        num_blocks=2,
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    decode_head=dict(num_classes=9, train_cfg=dict(num_points=512)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
