"""Eight motions of emoji in front of two colours, 8 of 12 frames of 48 px; val has another artist."""

data_root = "data/emoji_motions"
needs_data = "data/emoji_motions, made by tools/dataset_converters/emoji_motions.py"
classes = [
    "right",
    "left",
    "down",
    "up",
    "grows",
    "shrinks",
    "turns anticlockwise",
    "turns clockwise",
]
train_pipeline = [
    dict(
        type="mmonepeace.LoadVideo",
        num_frames=8,
        interval=None,
        size=48,
        order="filmed",
        cache=True,
    ),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(
        type="mmonepeace.LoadVideo",
        num_frames=8,
        interval=None,
        size=48,
        clips=1,
        order="filmed",
        cache=True,
    ),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(video="video"),
        label="label",
        classes=classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(video="video"),
        label="label",
        classes=classes,
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.Accuracy")
test_evaluator = val_evaluator
