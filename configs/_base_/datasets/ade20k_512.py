"""ADE20K, 150 classes, crops of 512 px. Another crop: change `crop`, all else follows it."""

dataset_type = "ADE20KDataset"
data_root = "data/ade/ADEChallengeData2016"
needs_data = (
    "ADE20K: ADEChallengeData2016.zip of the MIT scene parsing benchmark "
    "(sceneparsing.csail.mit.edu), unpacked to data/ade/ADEChallengeData2016"
)
crop = 512
crop_size = (crop, crop)
scale = (4 * crop, crop)
sliding_window = dict(mode="slide", crop_size=crop_size, stride=(crop * 2 // 3, crop * 2 // 3))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),  # after Resize: labels keep their size
    dict(type="PackSegInputs"),
]
tta_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in tta_ratios],
            [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)],
            [dict(type="LoadAnnotations", reduce_zero_label=True)],
            [dict(type="PackSegInputs")],
        ],
    ),
]
train_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    reduce_zero_label=True,
    data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
    pipeline=train_pipeline,
)
val_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    reduce_zero_label=True,
    data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
    pipeline=test_pipeline,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=train_dataset,
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=val_dataset,
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
