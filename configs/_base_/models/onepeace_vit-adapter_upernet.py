"""ONE-PEACE with ViT-Adapter, UPerNet and an auxiliary FCN head."""

norm_cfg = dict(type="SyncBN", requires_grad=True)
data_preprocessor = dict(
    type="mmonepeace.SegDataPreProcessor", pad_val=0, seg_pad_val=255, size_divisor=32
)
model = dict(
    type="mmonepeace.EncoderDecoder",
    data_preprocessor=data_preprocessor,
    backbone=dict(type="mmonepeace.OnePeaceViTAdapter", rpb="per_block", norm_cfg=norm_cfg),
    decode_head=dict(
        type="mmonepeace.UPerHead",
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_index=2,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
