"""COCO captions (Karpathy), images at 256 px; recall by the official rule, and with equal captions as one."""

data_root = "data/coco_karpathy"
tokenizer = "checkpoints/tokenizer.json"
needs_data = (
    "data/coco_karpathy/{train,val,test}.tsv with columns image and caption, made by "
    "tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
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
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], ann_file="test.tsv"))
val_evaluator = [
    dict(type="mmonepeace.RecallAtK", rule="official"),
    dict(type="mmonepeace.RecallAtK", prefix="distinct_captions"),
]
test_evaluator = val_evaluator
