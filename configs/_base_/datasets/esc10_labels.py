"""Environmental sounds of ten classes, one for a clip; clips of 5 s."""

data_root = "data/esc10"
needs_data = "data/esc10/{train,val}.tsv with columns audio and label, and the clips they list"
classes = (
    "baby cry",
    "chainsaw",
    "clock tick",
    "dog bark",
    "fire crackling",
    "helicopter",
    "person sneeze",
    "rain",
    "rooster",
    "sea waves",
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=None, min_seconds=0, cache=True),
    dict(
        type="mmonepeace.PerturbAudio",
        max_seconds=2.5,
        speed=1.2,
        equaliser=6.0,
        noise=10.0,
        shift=0.3,
    ),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=5.0),
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
        columns=dict(audio="audio"),
        label="label",
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
        columns=dict(audio="audio"),
        label="label",
        classes=classes,
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.Accuracy")
test_evaluator = val_evaluator
