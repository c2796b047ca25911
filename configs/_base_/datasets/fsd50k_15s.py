"""FSD50K: 200 classes, several for a clip; its first 15 s."""

data_root = "data/fsd50k"
needs_data = (
    "data/fsd50k/{train,val,test}.tsv with columns audio and labels, and classes.txt, made by"
    " tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=15),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=15),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(audio="audio"),
        label="labels",
        classes="classes.txt",
        labels="several",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(audio="audio"),
        label="labels",
        classes="classes.txt",
        labels="several",
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], ann_file="test.tsv"))
val_evaluator = dict(type="mmonepeace.MeanAveragePrecision")
test_evaluator = val_evaluator
