"""ImageNet-1K at 384 px with the augmentation of the released recipe."""

dataset_type = "ImageNet"
data_root = "data/imagenet"
needs_data = "ImageNet-1K (image-net.org, ILSVRC2012) in data/imagenet/{train,val}/SYNSET/*.JPEG"
size = 384
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
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split="val", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
