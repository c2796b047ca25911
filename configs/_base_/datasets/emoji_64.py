"""Emoji and their names, images at 64 px; val is by artists not seen in training."""

data_root = "data/emoji"
tokenizer = "data/emoji/tokenizer.json"
needs_tokenizer = (
    "one trained on its captions: mmonepeace train-tokenizer DATA/train.tsv "
    "data/emoji/tokenizer.json --vocab-size 2000"
)
needs_data = "data/emoji/{train,val}.tsv with columns image and caption, and the images they list"
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=64, crop_scale=(0.6, 1.0)),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.MaskTokens", stage="vl", tokenizer=tokenizer),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=64),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="mmonepeace.EndlessSampler"),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(image="image", text="caption"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(image="image", text="caption"),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type="mmonepeace.RecallAtK"),
    dict(
        type="mmonepeace.ZeroShotAccuracy",
        modality="image",
        tokenize=dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    ),
]
test_evaluator = val_evaluator
