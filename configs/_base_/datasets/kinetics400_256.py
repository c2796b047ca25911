"""Kinetics-400: 400 actions, one for a clip of ten seconds; 16 frames of 256 px, every eighth."""

data_root = "data/kinetics400"
needs_data = (
    "data/kinetics400/{train,val}.tsv with columns video and label, classes.txt, and the videos; and "
    "PyAV, pip install 'mmonepeace[video]'"
)
frames = dict(num_frames=16, interval=8, size=256)
train_pipeline = [
    dict(type="mmonepeace.LoadVideo", **frames, crop_scale=(0.08, 1.0), flip=0.5),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadVideo", **frames, clips=1, crops=1),
    dict(type="mmonepeace.PackModalities"),
]
test_pipeline = [
    dict(type="mmonepeace.LoadVideo", **frames, clips=3, crops=3),
    dict(type="mmonepeace.PackModalities"),
]
table = dict(
    type="mmonepeace.LabelledDataset",
    data_root=data_root,
    columns=dict(video="video"),
    label="label",
    classes="classes.txt",
)
train_dataloader = dict(
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(**table, ann_file="train.tsv", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**table, ann_file="val.tsv", pipeline=val_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**table, ann_file="val.tsv", pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type="mmonepeace.Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
