"""Image-text pairs of LAION-2B in shards, images at 256 px; retrieval on COCO's 5000 val images."""

data_root = "data"
tokenizer = "checkpoints/tokenizer.json"
needs_tokenizer = "that of the released models: mmonepeace convert-tokenizer"
needs_data = (
    "shards with .jpg and .txt members in data/laion2b/*.tar (tools/dataset_converters/"
    "make_shards.py), and data/coco/val.tsv with columns image and caption"
)
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256, crop_scale=(0.9, 1.0)),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.MaskTokens", stage="vl", tokenizer=tokenizer),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=None,
    dataset=dict(
        type="mmonepeace.ShardDataset",
        data_root=data_root,
        shards="laion2b",
        modalities=("image", "text"),
        batch_size=128,
        streams=8,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file="coco/val.tsv",
        columns=dict(image="image", text="caption"),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.RecallAtK")
test_evaluator = val_evaluator
