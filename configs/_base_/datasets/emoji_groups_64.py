"""Emoji in the eight groups of Unicode at 64 px; val is the same emoji by another artist."""

data_root = "data/emoji"
needs_data = "data/emoji/{train,val}.tsv with columns image and group, and the images they list"
classes = (
    "activities",
    "animals & nature",
    "food & drink",
    "objects",
    "people & body",
    "smileys & emotion",
    "symbols",
    "travel & places",
)
train_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="pillow"),
    dict(
        type="RandomResizedCrop",
        scale=64,
        crop_ratio_range=(0.6, 1.0),
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="pillow"),
    dict(type="Resize", scale=(64, 64), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile", imdecode_backend="pillow"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(64, 64), backend="pillow", interpolation="bicubic")],
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="PackInputs")],
        ],
    ),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="train.tsv",
        label="group",
        classes=classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="val.tsv",
        label="group",
        classes=classes,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
