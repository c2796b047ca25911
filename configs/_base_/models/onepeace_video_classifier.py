"""A frozen image encoder with adapters over time, and a linear head on the mean of its frames."""

model = dict(
    type="mmonepeace.OnePeaceVideoClassifier",
    backbone=dict(
        type="mmonepeace.OnePeaceVideo",
        modalities=dict(image=dict()),
        with_cp=True,
    ),
    head=dict(num_classes=400, dropout=0.5),
)
