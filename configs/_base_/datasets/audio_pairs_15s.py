"""Audio-text pairs, the first 15 s of each clip; zero-shot classification of ESC-50."""

data_root = "data"
tokenizer = "checkpoints/tokenizer.json"
needs_tokenizer = "that of the released models: mmonepeace convert-tokenizer"
needs_data = (
    "data/{clotho,audiocaps,macs}/train.tsv with columns audio and caption, data/esc50/all.tsv with "
    "columns audio and label, made by tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=15),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.MaskTokens", stage="al", tokenizer=tokenizer),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=15),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="mmonepeace.EndlessSampler"),
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
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="esc50/all.tsv",
        columns=dict(audio="audio", text="label"),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type="mmonepeace.RecallAtK"),
    dict(
        type="mmonepeace.ZeroShotAccuracy",
        modality="audio",
        tokenize=dict(type="mmonepeace.Tokenize", tokenizer=tokenizer),
        templates=["This is a sound of {}"],
    ),
]
test_evaluator = val_evaluator
