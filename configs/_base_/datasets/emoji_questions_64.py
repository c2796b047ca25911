"""Questions about scenes of emoji at 64 px; val has another artist and photographs."""

data_root = "data/emoji_questions"
tokenizer = "data/emoji_questions/tokenizer.json"
needs_tokenizer = (
    "one trained on its texts: mmonepeace train-tokenizer data/emoji_questions/questions_train.tsv:question "
    "data/emoji_questions/tokenizer.json --vocab-size 500"
)
needs_data = "data/emoji_questions, made by tools/dataset_converters/emoji_questions.py"
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
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="questions_train.tsv",
        columns=dict(image="image", text="question"),
        label="refs",
        labels="confidences",
        classes="classes.txt",
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
        ann_file="questions_val.tsv",
        columns=dict(image="image", text="question"),
        label="refs",
        labels="confidences",
        classes="classes.txt",
        answers="answers",
        extra=["question_id"],
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.VQAAccuracy")
test_evaluator = val_evaluator
