"""ONE-PEACE with ViT-Adapter and Mask2Former for instances."""

data_preprocessor = dict(type="mmonepeace.DetDataPreprocessor", pad_mask=True, pad_size_divisor=32)
model = dict(
    type="mmonepeace.Mask2Former",
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type="mmonepeace.OnePeaceViTAdapter", rpb="per_block", norm_cfg=dict(type="SyncBN")
    ),
    panoptic_head=dict(
        type="Mask2FormerHead",
        strides=[4, 8, 16, 32],
        feat_channels=256,
        num_things_classes=80,
        num_stuff_classes=0,
        num_queries=100,
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type="MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(num_levels=3, num_points=4, dropout=0.0, batch_first=True),
                    ffn_cfg=dict(
                        feedforward_channels=1024,
                        num_fcs=2,
                        ffn_drop=0.0,
                        act_cfg=dict(type="ReLU", inplace=True),
                    ),
                ),
            ),
            positional_encoding=dict(normalize=True),
        ),
        enforce_decoder_input_project=False,
        positional_encoding=dict(normalize=True),
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=9,
            layer_cfg=dict(
                self_attn_cfg=dict(dropout=0.0, batch_first=True),
                cross_attn_cfg=dict(dropout=0.0, batch_first=True),
                ffn_cfg=dict(
                    feedforward_channels=2048,
                    num_fcs=2,
                    ffn_drop=0.0,
                    act_cfg=dict(type="ReLU", inplace=True),
                ),
            ),
        ),
        loss_cls=dict(
            type="CrossEntropyLoss", use_sigmoid=False, loss_weight=2.0, reduction="mean"
        ),
        loss_mask=dict(
            type="CrossEntropyLoss", use_sigmoid=True, loss_weight=5.0, reduction="mean"
        ),
        loss_dice=dict(
            type="DiceLoss",
            use_sigmoid=True,
            activate=True,
            reduction="mean",
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead", num_things_classes=80, num_stuff_classes=0, loss_panoptic=None
    ),
    train_cfg=dict(
        num_points=12544,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="ClassificationCost", weight=2.0),
                dict(type="CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
                dict(type="DiceCost", weight=5.0, pred_act=True, eps=1.0),
            ],
        ),
        sampler=dict(type="MaskPseudoSampler"),
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
