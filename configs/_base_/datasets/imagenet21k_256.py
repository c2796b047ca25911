"""ImageNet-21K, its 19,167 classes, at 256 px."""

dataset_type = "CustomDataset"
data_root = "data/imagenet21k"
needs_data = "ImageNet-21K of 19,167 classes in data/imagenet21k/{train,val}/SYNSET/*.JPEG"
size = 256
bicubic = dict(backend="pillow", interpolation="bicubic")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=size, crop_ratio_range=(0.08, 1.0), **bicubic),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="mmonepeace.RandAugment", policy="rand-m9-mstd0.5-inc1"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=size, edge="short", **bicubic),
    dict(type="CenterCrop", crop_size=size),
    dict(type="PackInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="ResizeEdge", scale=size, edge="short", **bicubic)],
            [dict(type="CenterCrop", crop_size=size)],
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="PackInputs")],
        ],
    ),
]
train_dataloader = dict(
    batch_size=24,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix="train",
        with_label=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix="val",
        with_label=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
