"""ONE-PEACE tiny with Mask R-CNN on emoji objects at 160 px, from scratch on a CPU.

Run:    make det-demo
Needs:  mmdetection, mmcv with compiled ops; the data are made by
        tools/dataset_converters/emoji_objects.py
Expect: AP 7.1 for boxes, 5.5 for masks, on drawings by an artist not seen in training; 20 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_mask-rcnn.py",
    "../_base_/datasets/emoji_objects_160.py",
    "../_base_/schedules/tiny.py",
    "../_base_/det_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256),
        img_size=160,
        global_blocks=[0, 1, 2],  # images have 100 patches
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    neck=dict(out_channels=64),
    rpn_head=dict(feat_channels=64, num_convs=1, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), finest_scale=28),
        bbox_head=dict(type="Shared2FCBBoxHead", fc_out_channels=256, num_classes=8),
        mask_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), finest_scale=28),
        mask_head=dict(num_convs=2, conv_out_channels=64, num_classes=8),
    ),
    train_cfg=dict(
        rcnn=dict(sampler=dict(num=64)), rpn_proposal=dict(nms_pre=500, max_per_img=200)
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=900),
]
train_cfg = dict(max_iters=900, val_interval=900)
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=90))
