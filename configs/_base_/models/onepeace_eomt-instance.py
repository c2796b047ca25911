"""ONE-PEACE as an encoder-only mask transformer (EoMT) for instances."""

data_preprocessor = dict(type="mmonepeace.DetDataPreprocessor", pad_mask=True, pad_size_divisor=16)
model = dict(
    type="mmonepeace.Mask2Former",
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type="mmonepeace.OnePeaceEoMT",
        rpb="per_block",
        num_queries=200,
        num_blocks=3,
        query_ffn="image",
    ),
    panoptic_head=dict(
        type="mmonepeace.EoMTPanopticHead", num_things_classes=80, num_stuff_classes=0
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead", num_things_classes=80, num_stuff_classes=0, loss_panoptic=None
    ),
    train_cfg=dict(  # of the head's MaskLoss
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        num_points=12544,
        oversample_ratio=3.0,
        importance_ratio=0.75,
    ),
    test_cfg=dict(
        panoptic_on=False,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
