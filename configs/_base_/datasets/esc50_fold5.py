"""ESC-50, trained on folds 1 to 4 and measured on 5; the published figure is the mean over five folds."""

data_root = "data/esc50"
needs_data = (
    "data/esc50/fold5_{train,val}.tsv with columns audio and label, and classes.txt, made by "
    "tools/dataset_converters/task_tables.py"
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
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="fold5_train.tsv",
        columns=dict(audio="audio"),
        label="label",
        classes="classes.txt",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="fold5_val.tsv",
        columns=dict(audio="audio"),
        label="label",
        classes="classes.txt",
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
