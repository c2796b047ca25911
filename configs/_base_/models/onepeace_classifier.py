"""ONE-PEACE as an image classifier: mean of the patches, LayerNorm, linear; a shared RPB table."""

model = dict(
    type="mmonepeace.ImageClassifier",
    backbone=dict(
        type="mmonepeace.OnePeace", rpb="shared", out_type="avg_featmap", final_norm=True
    ),
    head=dict(
        type="LinearClsHead",
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
)
