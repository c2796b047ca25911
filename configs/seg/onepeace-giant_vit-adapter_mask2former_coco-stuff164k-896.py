"""The released ONE-PEACE segmentor on COCO-Stuff-164K at 896 px, 80k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_vit-adapter_mask2former_coco-stuff164k-896.py 16
Needs:  COCO-Stuff-164K in data/coco_stuff164k; one-peace-vision.pkl in checkpoints/; 16 GPUs, 1
        image each; mmdetection, mmcv with compiled ops
Memory: a step of 1 holds 39.1 GB on each GPU, as mmonepeace estimate says; not measured
Expect: the official result is 52.9 mIoU, single scale; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former.py",
    "../_base_/datasets/coco_stuff164k_896.py",
    "../_base_/schedules/80k.py",
    "../_base_/runtime.py",
    "../_base_/vision_branch.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        img_size=_base_.crop_size[0],
        drop_path_rate=0.5,
        with_cp=True,
        init_cfg=_base_.vision_branch,
    ),
    decode_head=dict(num_classes=171),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(
    optimizer=dict(lr=2e-5), paramwise_cfg=dict(decay_rate=0.95, preset="official-segmentation")
)
default_hooks = dict(checkpoint=dict(interval=8000))
