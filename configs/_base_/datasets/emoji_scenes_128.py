"""Emoji on photographs, 9 classes, crops of 128 px at half their size: the data set of `make demo`.

At half the size a small model sees more scenes in the same time.
"""

dataset_type = "BaseSegDataset"
data_root = "data/emoji_scenes"
needs_data = "the demo data: run `make demo-data`"
metainfo = dict(
    classes=(
        "background",
        "smileys-emotion",
        "people-body",
        "animals-nature",
        "food-drink",
        "travel-places",
        "activities",
        "objects",
        "symbols",
    ),
    palette=[
        (40, 40, 40),
        (255, 204, 0),
        (255, 128, 102),
        (51, 160, 44),
        (214, 39, 40),
        (31, 119, 180),
        (148, 103, 189),
        (140, 86, 75),
        (23, 190, 207),
    ],
)
size = (80, 80)  # files have 160 px
crop_size = (64, 64)
# Of batches, by the model's preprocessor: a transform of each image costs more.
augmentation = dict(
    size=crop_size,
    zoom=1.25,
    flip=0.5,
    hue=25,
    saturation=(0.5, 1.5),
    contrast=1.5,
    brightness=0.12,
)
train_pipeline = [
    dict(
        type="mmonepeace.Cached",
        transforms=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="Resize", scale=size, keep_ratio=True),
        ],
    ),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize: labels keep their size
    dict(type="PackSegInputs"),
]
tta_ratios = [0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in tta_ratios],
            [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
train_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
    img_suffix=".png",
    seg_map_suffix=".png",
    pipeline=train_pipeline,
)
val_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val"),
    img_suffix=".png",
    seg_map_suffix=".png",
    pipeline=test_pipeline,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=train_dataset,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=val_dataset,
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
