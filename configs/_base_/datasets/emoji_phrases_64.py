"""Phrases about scenes of emoji at 64 px, and their boxes; val has another artist and photographs."""

data_root = "data/emoji_phrases"
tokenizer = "data/emoji_phrases/tokenizer.json"
needs_tokenizer = (
    "one trained on its texts: mmonepeace train-tokenizer data/emoji_phrases/train.tsv:text "
    "data/emoji_phrases/tokenizer.json --vocab-size 500"
)
needs_data = "data/emoji_phrases, made by tools/dataset_converters/emoji_phrases.py"
pipeline = [
    dict(type="mmonepeace.LoadImage", size=64, cache=True),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.BoxDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(image="image", text="text"),
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.BoxDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(image="image", text="text"),
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.GroundingAccuracy")
test_evaluator = val_evaluator
