"""VQA v2: questions about images at 480 px, and how many of ten people gave each of 3,129 answers."""

data_root = "data/vqa"
tokenizer = "checkpoints/tokenizer.json"
needs_data = (
    "data/vqa/{trainval,minival}.tsv with columns question_id, image, question, refs and "
    "answers, and classes.txt, made by tools/dataset_converters/task_tables.py"
)
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=480),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadImage", size=480),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.LabelledDataset",
        data_root=data_root,
        ann_file="trainval.tsv",
        columns=dict(image="image", text="question"),
        label="refs",
        labels="confidences",
        classes="classes.txt",
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
        ann_file="minival.tsv",
        columns=dict(image="image", text="question"),
        label="refs",
        labels="confidences",
        classes="classes.txt",
        answers="answers",
        extra=["question_id"],
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.VQAAccuracy")
test_evaluator = val_evaluator
