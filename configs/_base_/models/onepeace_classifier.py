"""ONE-PEACE as an image classifier: mean of the patches, LayerNorm, linear; one table for all blocks."""

data_preprocessor = dict(
    type="ClsDataPreprocessor",
    mean=[122.771, 116.746, 104.094],
    std=[68.5, 66.632, 70.323],
    to_rgb=True,
)
model = dict(
    type="ImageClassifier",
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type="mmonepeace.OnePeace", rpb="shared", out_type="avg_featmap", final_norm=True
    ),
    head=dict(
        type="LinearClsHead",
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
)
