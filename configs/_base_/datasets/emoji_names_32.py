"""Parts of scenes of emoji at 32 px, and the names of what they show; val has another artist."""

data_root = "data/emoji_phrases"
tokenizer = "data/emoji_phrases/tokenizer.json"
needs_tokenizer = (
    "one trained on its texts: mmonepeace train-tokenizer data/emoji_phrases/train.tsv:text "
    "data/emoji_phrases/tokenizer.json --vocab-size 500"
)
needs_data = "data/emoji_phrases, made by tools/dataset_converters/emoji_phrases.py"
pipeline = [
    dict(type="mmonepeace.LoadImage", size=32, cache=True),  # the scale of the scenes at 64 px
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
        ann_file="names_train.tsv",
        columns=dict(image="image", text="caption"),
        pipeline=pipeline,
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
        ann_file="names_val.tsv",
        columns=dict(image="image", text="caption"),
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="mmonepeace.ZeroShotAccuracy",
    modality="image",
    tokenize=dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
)
test_evaluator = val_evaluator
