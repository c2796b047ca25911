"""The released ONE-PEACE segmentor on COCO-Stuff-164K at 896 px, 80k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_vit-adapter_mask2former_coco-stuff164k-896.py 16
Needs:  COCO-Stuff-164K in data/coco_stuff164k; 16 GPUs, 1 image each; mmdetection, mmcv with compiled ops
        one-peace-vision.pkl in checkpoints/
Expect: the paper's figure is 52.9 mIoU with one scale; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former-1024.py",
    "../_base_/datasets/coco_stuff164k_896.py",
    "../_base_/schedules/80k.py",
    "../_base_/runtime.py",
]
needs_weights = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
model = dict(
    backbone=dict(
        arch="giant",
        img_size=896,
        drop_path_rate=0.5,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/one-peace-vision.pkl"),
    ),
    decode_head=dict(
        in_channels=[1536] * 4,
        num_classes=171,
        loss_cls=dict(class_weight=[1.0] * 171 + [0.1]),
    ),
    test_cfg=dict(mode="slide", crop_size=(896, 896), stride=(512, 512)),
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-5), paramwise_cfg=dict(decay_rate=0.95, preset="official-segmentation")
)
default_hooks = dict(checkpoint=dict(interval=8000))
