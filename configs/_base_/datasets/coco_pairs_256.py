"""COCO captions, images at 256 px as in the released script; retrieval on the 5000 val images."""

data_root = "data/coco_karpathy"
tokenizer = "checkpoints/tokenizer.json"
needs_tokenizer = "that of the released models: mmonepeace convert-tokenizer"
needs_data = (
    "data/coco_karpathy/{train,val}.tsv with columns image and caption, made by "
    "tools/dataset_converters/task_tables.py"
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
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
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
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
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
