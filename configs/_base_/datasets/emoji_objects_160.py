"""Emoji on photographs with boxes and masks, 8 classes, 160 px at half their size: `make det-demo`.

At half the size a small model sees more scenes in the same time.
"""

dataset_type = "CocoDataset"
data_root = "data/emoji_objects"
needs_data = (
    "the demo data of detection: run tools/dataset_converters/emoji_objects.py --out "
    "data/emoji_objects"
)
metainfo = dict(
    classes=(
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
train_pipeline = [
    dict(
        type="mmonepeace.Cached",
        transforms=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="Resize", scale=size, keep_ratio=True),
        ],
    ),
    dict(type="RandomResize", scale=size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=size, recompute_bbox=True, allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type="RandomFlip", prob=0.5),
    # Other artists take other colours.
    dict(type="Color", prob=0.3, min_mag=0.0, max_mag=1.0),
    dict(type="Invert", prob=0.1),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    # After Resize: boxes and masks keep their size.
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=metainfo,
    ann_file="annotations/instances_train.json",
    data_prefix=dict(img="train"),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=train_pipeline,
)
val_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    metainfo=metainfo,
    ann_file="annotations/instances_val.json",
    data_prefix=dict(img="val"),
    test_mode=True,
    pipeline=test_pipeline,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # two cores are busy already
    persistent_workers=False,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=train_dataset,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=val_dataset,
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric",
    ann_file="data/emoji_objects/annotations/instances_val.json",
    metric=["bbox", "segm"],
    classwise=True,
)
test_evaluator = val_evaluator
