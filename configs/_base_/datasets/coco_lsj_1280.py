"""COCO 2017 with boxes and masks, large-scale jitter at 1280 px as in the released recipe.

The model's preprocessor pads to 1280 x 1280, after normalising, as the official code does.
"""

dataset_type = "CocoDataset"
data_root = "data/coco"
needs_data = (
    "COCO 2017 (images.cocodataset.org: train2017.zip, val2017.zip, "
    "annotations_trainval2017.zip) in data/coco/{train2017,val2017,annotations}"
)
size = (1280, 1280)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomResize", scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=size, recompute_bbox=True, allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(0.01, 0.01), keep_empty=False),
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
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017"),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=train_pipeline,
)
val_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    ann_file="annotations/instances_val2017.json",
    data_prefix=dict(img="val2017"),
    test_mode=True,
    pipeline=test_pipeline,
)
train_dataloader = dict(
    batch_size=1,
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
val_evaluator = dict(
    type="CocoMetric",
    ann_file="data/coco/annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator
