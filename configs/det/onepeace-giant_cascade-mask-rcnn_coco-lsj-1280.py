"""The released ONE-PEACE detector on COCO at 1280 px: large-scale jitter, 92k steps.

Run:    tools/dist_train.sh configs/det/onepeace-giant_cascade-mask-rcnn_coco-lsj-1280.py 64
Needs:  COCO 2017 in data/coco; 64 GPUs, 1 image each; mmdetection, mmcv with compiled ops
        one-peace-vision.pkl in checkpoints/
Expect: the official figures are 60.37 box AP and 52.85 mask AP; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_cascade-mask-rcnn.py",
    "../_base_/datasets/coco_lsj_1280.py",
    "../_base_/schedules/coco_92k.py",
    "../_base_/det_runtime.py",
]
needs_weights = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
model = dict(
    # In tests too: positions are those of the square.
    data_preprocessor=dict(pad_size_divisor=1280),
    backbone=dict(
        arch="giant",
        img_size=1280,
        drop_path_rate=0.6,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/one-peace-vision.pkl"),
    ),
    neck=dict(in_channels=1536),
)
auto_scale_lr = dict(base_batch_size=64)
