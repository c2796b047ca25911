"""Notes of General MIDI instruments and their names; val has other recordings of them."""

data_root = "data/gm_instruments"
tokenizer = "data/gm_instruments/tokenizer.json"
needs_tokenizer = (
    "one trained on its labels: mmonepeace train-tokenizer DATA/train.tsv "
    "data/gm_instruments/tokenizer.json --text-column label --vocab-size 2000"
)
needs_data = (
    "data/gm_instruments/{train,val}.tsv with columns audio and label, and the clips they list"
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=1.0),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.MaskTokens", stage="al", tokenizer=tokenizer),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=1.0),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=48,
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
