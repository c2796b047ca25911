"""Spoken digits and their names; clips are repeated up to one second."""

data_root = "data/fsdd"
tokenizer = "data/fsdd/tokenizer.json"
needs_tokenizer = (
    "one trained on its labels: mmonepeace train-tokenizer DATA/train.tsv data/fsdd/tokenizer.json "
    "--text-column label --vocab-size 1000"
)
needs_data = "data/fsdd/{train,val}.tsv with columns audio and label, and the clips they list"
seconds = 2.3
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=None, min_seconds=0, cache=True),
    dict(
        type="mmonepeace.PerturbAudio",
        max_seconds=1.0,
        speed=1.25,
        equaliser=6.0,
        noise=10.0,
        shift=0.1,
    ),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=seconds),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="mmonepeace.EndlessSampler"),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(audio="audio", text="label"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="val.tsv",
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
        tokenize=dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    ),
]
test_evaluator = val_evaluator
