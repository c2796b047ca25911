"""Photographs of Flickr8k with five captions each, at 64 px; val has other photographs."""

data_root = "data/flickr1k"
tokenizer = "data/flickr1k/tokenizer.json"
needs_tokenizer = (
    "one trained on its captions: mmonepeace train-tokenizer DATA/train.tsv "
    "data/flickr1k/tokenizer.json --vocab-size 2000"
)
needs_data = (
    "data/flickr1k/{train,val}.tsv with columns image and caption, and the images they list"
)
size = 64
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=size, cache=True),
    dict(type="mmonepeace.DropWords", probability=0.2),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=size),
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
val_evaluator = dict(type="mmonepeace.RecallAtK")
test_evaluator = val_evaluator
