"""AVQA without its images: a clip, a question, four candidates; the first 15 s of a clip."""

data_root = "data/avqa"
tokenizer = "checkpoints/tokenizer.json"
needs_data = (
    "data/avqa/{train,val}.tsv with columns audio and text, made by "
    "tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=15),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="none", max_length=510),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=15),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="none", max_length=510),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=1,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.ChoiceDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(audio="audio"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.ChoiceDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(audio="audio"),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.Accuracy")
test_evaluator = val_evaluator
