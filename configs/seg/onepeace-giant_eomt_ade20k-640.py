"""ONE-PEACE (the released giant) as an encoder-only mask transformer (EoMT) on ADE20K at 640 px, 40k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_eomt_ade20k-640.py 16
Needs:  what onepeace-giant_eomt_ade20k-896.py needs
Expect: not measured yet
"""

_base_ = ["./onepeace-giant_eomt_ade20k-896.py"]
train_pipeline = [
    *_base_.train_pipeline[:2],
    dict(type="RandomResize", scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    *_base_.train_pipeline[4:],
]
test_pipeline = [
    _base_.test_pipeline[0],
    dict(type="Resize", scale=(2560, 640), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
model = dict(backbone=dict(img_size=640), test_cfg=dict(crop_size=(640, 640), stride=(426, 426)))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
