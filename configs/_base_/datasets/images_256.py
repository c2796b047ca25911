"""Images without labels, of any sizes, in folders: random crops at 256 px."""

data_root = "data/images"
needs_data = "images in data/images, in any subfolders"
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=256, crop_scale=(0.3, 1.0), fast_jpeg=True),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="mmonepeace.EndlessSampler"),
    dataset=dict(
        type="mmonepeace.PairDataset",
        data_root=data_root,
        ann_file=".",
        columns=dict(image=""),
        pipeline=train_pipeline,
    ),
)
