"""Template: ONE-PEACE with UPerNet on your own images. Copy it and change the marked lines.

Run:    mmonepeace train configs/seg/your_dataset.py --data-root DIR --checkpoint WEIGHTS
Needs:  DIR/img_dir/{train,val}/NAME.jpg and DIR/ann_dir/{train,val}/NAME.png; the pixels of a PNG
        are class indices, from 0; 255 is ignored
Expect: a table of IoU per class every 1000 steps, checkpoints and drawn predictions in work_dirs/
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/labelmefacade_256.py",  # folder layout, evaluation, TTA
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
needs_data = "your images and label maps, laid out as the template's first lines say"
classes = ("background", "thing")  # yours: names in the order of their indices
palette = [(0, 0, 0), (255, 0, 0)]  # yours: a colour for each
size = 256  # yours: training crops and the shorter side at test time, in pixels, a multiple of 16
max_iters = 20000  # yours

metainfo = dict(classes=classes, palette=palette)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),  # reduce_zero_label=True if label values start at 1
    dict(type="RandomResize", scale=(size * 4, size), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(size, size), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size * 4, size), keep_ratio=True),
    dict(type="LoadAnnotations"),  # as above
    dict(type="PackSegInputs"),
]
train_dataloader = dict(batch_size=4, dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(
    backbone=dict(
        arch="base",  # tiny, small, base, large, giant
        img_size=size,
        drop_path_rate=0.2,
    ),
    decode_head=dict(channels=512, num_classes=len(classes)),
    auxiliary_head=dict(channels=256, num_classes=len(classes)),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=500, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
