"""RefCOCO: phrases and boxes, images squashed to 384 x 384 px; training blurs half of them."""

data_root = "data/refcoco"
tokenizer = "checkpoints/tokenizer.json"
needs_data = (
    "data/refcoco/{train,val,testA,testB}.tsv with columns image, text and region_coord, made"
    " by tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=384),
    dict(type="mmonepeace.BlurImage", probability=0.5),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset", max_length=510),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=384),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset", max_length=510),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.BoxDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(image="image", text="text"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.BoxDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(image="image", text="text"),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader["dataset"], ann_file="testA.tsv")
)
val_evaluator = dict(type="mmonepeace.GroundingAccuracy")
test_evaluator = val_evaluator
