"""NLVR2: is a statement about two images true? Images at 256 px; a flip turns both."""

data_root = "data/nlvr2"
tokenizer = "checkpoints/tokenizer.json"
needs_data = (
    "data/nlvr2/{train,val,test}.tsv with columns text, image1, image2 and label, made by "
    "tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256),
    dict(type="mmonepeace.LoadImage", size=256, second=True),
    dict(type="mmonepeace.AugmentImagePair"),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256),
    dict(type="mmonepeace.LoadImage", size=256, second=True),
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
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="train.tsv",
        columns=dict(image="image1", image_2="image2", text="text"),
        label="label",
        classes=["True", "False"],
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="val.tsv",
        columns=dict(image="image1", image_2="image2", text="text"),
        label="label",
        classes=["True", "False"],
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], ann_file="test.tsv"))
val_evaluator = dict(type="mmonepeace.Accuracy")
test_evaluator = val_evaluator
