"""Emoji at 64 px without their names: random crops."""

data_root = "data/emoji"
needs_data = "data/emoji/train.tsv with a column image, and the images it lists"
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=64, crop_scale=(0.4, 1.0), cache=True),
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
        columns=dict(image="image"),
        pipeline=train_pipeline,
    ),
)
