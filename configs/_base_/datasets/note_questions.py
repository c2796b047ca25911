"""Questions about notes that follow each other, four candidates; val has another sound bank."""

data_root = "data/note_questions"
tokenizer = "data/note_questions/tokenizer.json"
needs_tokenizer = (
    "one trained on its texts: mmonepeace train-tokenizer data/note_questions/questions_train.tsv:text "
    "data/note_questions/tokenizer.json --vocab-size 500"
)
needs_data = "data/note_questions, made by tools/dataset_converters/note_questions.py"
seconds = 3.0
pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=seconds, cache=True),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="none"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="mmonepeace.ChoiceDataset",
        data_root=data_root,
        ann_file="questions_train.tsv",
        columns=dict(audio="audio"),
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmonepeace.ChoiceDataset",
        data_root=data_root,
        ann_file="questions_val.tsv",
        columns=dict(audio="audio"),
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmonepeace.Accuracy")
test_evaluator = val_evaluator
