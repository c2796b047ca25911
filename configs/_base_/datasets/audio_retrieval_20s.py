"""Clotho, AudioCaps and MACS, the first 20 s of a clip; validated on AudioCaps."""

data_root = "data"
tokenizer = "checkpoints/tokenizer.json"
needs_data = (
    "data/{clotho,audiocaps,macs}/train.tsv and data/audiocaps/{val,test}.tsv with columns "
    "audio and caption, made by tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=20),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=20),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file=["clotho/train.tsv", "audiocaps/train.tsv", "macs/train.tsv"],
        columns=dict(audio="audio", text="caption"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="audiocaps/val.tsv",
        columns=dict(audio="audio", text="caption"),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader["dataset"], ann_file="audiocaps/test.tsv")
)
val_evaluator = [
    dict(type="mmonepeace.RecallAtK", rule="official"),
    dict(type="mmonepeace.RecallAtK", prefix="distinct_captions"),
]
test_evaluator = val_evaluator
