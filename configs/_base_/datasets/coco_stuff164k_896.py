"""COCO-Stuff-164K, 171 classes, crops of 896 px."""

dataset_type = "COCOStuffDataset"
data_root = "data/coco_stuff164k"
needs_data = (
    "COCO-Stuff-164K: train2017 and val2017 of COCO and stuffthingmaps_trainval2017.zip "
    "(github.com/nightrome/cocostuff) in data/coco_stuff164k/{images,annotations}/{train2017,val2017}, "
    "then python tools/dataset_converters/label_maps.py coco_stuff164k data/coco_stuff164k"
)
crop = 896
crop_size = (crop, crop)
scale = (4 * crop, crop)
sliding_window = dict(mode="slide", crop_size=crop_size, stride=(512, 512))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize: labels keep their size
    dict(type="PackSegInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(4 * side, side), keep_ratio=True)
                for side in [384, 512, 640, 768, 896, 1024, 1152]
            ],
            [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
train_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img_path="images/train2017", seg_map_path="annotations/train2017"),
    pipeline=train_pipeline,
)
val_dataset = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img_path="images/val2017", seg_map_path="annotations/val2017"),
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
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
