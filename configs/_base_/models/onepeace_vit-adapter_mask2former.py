"""ONE-PEACE with ViT-Adapter and Mask2Former of 1024 channels, as released.

Recipes give `num_classes`. Other widths follow `feat_channels`, and the class weights `num_classes`.
"""

norm_cfg = dict(type="SyncBN", requires_grad=True)
data_preprocessor = dict(
    type="mmonepeace.SegDataPreProcessor", pad_val=0, seg_pad_val=255, size_divisor=32
)
model = dict(
    type="mmonepeace.EncoderDecoder",
    data_preprocessor=data_preprocessor,
    backbone=dict(type="mmonepeace.OnePeaceViTAdapter", rpb="per_block", norm_cfg=norm_cfg),
    decode_head=dict(
        type="Mask2FormerHead",
        strides=[4, 8, 16, 32],
        feat_channels=1024,
        num_queries=200,
        num_transformer_feat_level=3,
        align_corners=False,
        pixel_decoder=dict(
            type="mmdet.MSDeformAttnPixelDecoder",
            num_outs=3,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=6,
                layer_cfg=dict(
                    self_attn_cfg=dict(num_levels=3, num_points=4, dropout=0.0, batch_first=True),
                    ffn_cfg=dict(
                        feedforward_channels=4096,
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
                    feedforward_channels=4096,
                    num_fcs=2,
                    ffn_drop=0.0,
                    act_cfg=dict(type="ReLU", inplace=True),
                ),
            ),
        ),
        loss_cls=dict(
            type="mmdet.CrossEntropyLoss", use_sigmoid=False, loss_weight=2.0, reduction="mean"
        ),
        loss_mask=dict(
            type="mmdet.CrossEntropyLoss", use_sigmoid=True, loss_weight=5.0, reduction="mean"
        ),
        loss_dice=dict(
            type="mmdet.DiceLoss",
            use_sigmoid=True,
            activate=True,
            reduction="mean",
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
        train_cfg=dict(
            num_points=12544,
            oversample_ratio=3.0,
            importance_sample_ratio=0.75,
            assigner=dict(
                type="mmdet.HungarianAssigner",
                match_costs=[
                    dict(type="mmdet.ClassificationCost", weight=2.0),
                    dict(type="mmdet.CrossEntropyLossCost", weight=5.0, use_sigmoid=True),
                    dict(type="mmdet.DiceCost", weight=5.0, pred_act=True, eps=1.0),
                ],
            ),
            sampler=dict(type="mmdet.MaskPseudoSampler"),
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
