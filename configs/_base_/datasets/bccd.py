"""BCCD, blood cells under the microscope: boxes of 3 classes, images of 320 x 240 px."""

dataset_type = "CocoDataset"
data_root = "data/bccd"
needs_data = (
    "BCCD (github.com/Shenggan/BCCD_Dataset) in COCO's layout: data/bccd/{train,val}/*.jpg and "
    "data/bccd/annotations/instances_{train,val}.json"
)
metainfo = dict(
    classes=("Platelets", "RBC", "WBC"),  # in the order of the json file
    palette=[(148, 103, 189), (214, 39, 40), (31, 119, 180)],
)
size = (320, 240)  # width, height: half of the originals
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=size, allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(2, 2), keep_empty=False),
    # Images under the microscope have no orientation.
    dict(
        type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]
    ),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),  # after Resize: boxes keep their size
    dict(type="PackDetInputs", meta_keys=meta_keys),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(320, 240), keep_ratio=True),
                dict(type="Resize", scale=(400, 300), keep_ratio=True),
            ],
            [
                dict(type="RandomFlip", prob=0.0),
                dict(type="RandomFlip", prob=1.0, direction="horizontal"),
                dict(type="RandomFlip", prob=1.0, direction="vertical"),
            ],
            [dict(type="LoadAnnotations", with_bbox=True)],
            [dict(type="PackDetInputs", meta_keys=(*meta_keys, "flip", "flip_direction"))],
        ],
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
    batch_size=4,
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
    ann_file="data/bccd/annotations/instances_val.json",
    metric="bbox",
    classwise=True,
)
test_evaluator = val_evaluator
