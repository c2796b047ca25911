"""ONE-PEACE with a simple feature pyramid and RetinaNet: boxes in one stage."""

data_preprocessor = dict(type="mmonepeace.DetDataPreprocessor", pad_mask=False, pad_size_divisor=32)
model = dict(
    type="mmonepeace.RetinaNet",
    data_preprocessor=data_preprocessor,
    backbone=dict(type="mmonepeace.OnePeaceViTDet"),
    neck=dict(type="mmonepeace.SimpleFeaturePyramid", out_channels=256),
    bbox_head=dict(
        type="RetinaHead",
        feat_channels=256,
        stacked_convs=4,
        norm_cfg=dict(type="mmonepeace.LN2d", eps=1e-6),
        num_classes=80,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type="PseudoSampler"),  # the focal loss takes all
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=100,
    ),
)
