"""ONE-PEACE tiny with Mask R-CNN on emoji objects, 160 px at half their size, on a CPU.

Run:    make det-demo
Needs:  mmdetection, mmcv with compiled ops; the data are made by
        tools/dataset_converters/emoji_objects.py
Expect: 27.2 box AP and 22.5 mask AP on val (mean of three seeds) from the encoder of `make demo`;
        about 7 minutes on two cores
"""

_base_ = [
    "../_base_/models/onepeace_mask-rcnn.py",
    "../_base_/datasets/emoji_objects_160.py",
    "../_base_/schedules/tiny.py",
    "../_base_/det_runtime.py",
]
strides = [4, 8, 16]  # drawings have 15 to 50 pixels
norm_cfg = dict(type="GN", num_groups=8)
roi_extractor = dict(featmap_strides=strides, finest_scale=20)
# Drawings have 4 to 8 cells of their map on a side: more bins would show nothing more.
box_bins, mask_bins = 5, 10
model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256, stem="overlapping"),
        img_size=80,
        global_blocks=[0, 1, 2],  # images have 25 patches
        stem_maps=True,
        layer_scale_init=1.0,
        init_std=0.06,
        rpb="per_block",  # as in the demo's segmentor
    ),
    neck=dict(
        _delete_=True,
        type="FPN",
        out_channels=48,
        num_outs=len(strides),
        norm_cfg=norm_cfg,
    ),
    rpn_head=dict(
        feat_channels=48, num_convs=1, anchor_generator=dict(scales=[4, 5.6], strides=strides)
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            **roi_extractor, roi_layer=dict(sampling_ratio=1, output_size=box_bins)
        ),
        bbox_head=dict(
            type="Shared2FCBBoxHead", fc_out_channels=256, roi_feat_size=box_bins, num_classes=8
        ),
        mask_roi_extractor=dict(
            **roi_extractor, roi_layer=dict(sampling_ratio=1, output_size=mask_bins)
        ),
        mask_head=dict(num_convs=2, conv_out_channels=32, num_classes=8, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.34), mask_size=2 * mask_bins),
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3, betas=(0.9, 0.98)), paramwise_cfg=dict(decay_rate=0.6))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=2600),
]
train_cfg = dict(max_iters=2600, val_interval=1300)
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=260))
