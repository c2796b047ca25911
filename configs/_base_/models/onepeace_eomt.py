"""ONE-PEACE as an encoder-only mask transformer (EoMT) for semantic segmentation."""

data_preprocessor = dict(
    type="mmonepeace.SegDataPreProcessor", pad_val=0, seg_pad_val=255, size_divisor=16
)
model = dict(
    type="mmonepeace.EncoderDecoder",
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type="mmonepeace.OnePeaceEoMT",
        rpb="per_block",
        num_queries=100,
        num_blocks=3,
        query_ffn="image",
    ),
    decode_head=dict(
        type="mmonepeace.EoMTHead",
        train_cfg=dict(
            class_weight=2.0,
            mask_weight=5.0,
            dice_weight=5.0,
            no_object_weight=0.1,
            num_points=12544,
            oversample_ratio=3.0,
            importance_ratio=0.75,
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
