"""Up to three notes at a time: which instruments play? val has another sound bank."""

data_root = "data/note_questions"
needs_data = "data/note_questions, made by tools/dataset_converters/note_questions.py"
seconds = 1.5
pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=seconds, cache=True),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="mixtures_train.tsv",
        columns=dict(audio="audio"),
        label="labels",
        labels="several",
        classes="classes.txt",
        pipeline=pipeline,
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
        ann_file="mixtures_val.tsv",
        columns=dict(audio="audio"),
        label="labels",
        labels="several",
        classes="classes.txt",
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.MeanAveragePrecision")
test_evaluator = val_evaluator
