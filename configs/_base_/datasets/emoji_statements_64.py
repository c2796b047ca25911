"""Statements about two scenes of emoji at 64 px; val has another artist and photographs."""

data_root = "data/emoji_questions"
tokenizer = "data/emoji_questions/tokenizer.json"
needs_tokenizer = (
    "one trained on its texts: mmonepeace train-tokenizer data/emoji_questions/statements_train.tsv:text "
    "data/emoji_questions/tokenizer.json --vocab-size 500"
)
needs_data = "data/emoji_questions, made by tools/dataset_converters/emoji_questions.py"
pipeline = [
    dict(type="mmonepeace.LoadImage", size=64, cache=True),
    dict(type="mmonepeace.LoadImage", size=64, cache=True, second=True),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="statements_train.tsv",
        columns=dict(image="image1", image_2="image2", text="text"),
        label="label",
        classes=["True", "False"],
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="statements_val.tsv",
        columns=dict(image="image1", image_2="image2", text="text"),
        label="label",
        classes=["True", "False"],
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.Accuracy")
test_evaluator = val_evaluator
