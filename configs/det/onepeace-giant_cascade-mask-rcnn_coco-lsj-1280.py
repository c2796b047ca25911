"""The released ONE-PEACE detector on COCO at 1280 px: large-scale jitter, 92k steps.

Run:    tools/dist_train.sh configs/det/onepeace-giant_cascade-mask-rcnn_coco-lsj-1280.py 64
Needs:  COCO 2017 in data/coco; 64 GPUs, 1 image each; mmdetection, mmcv with compiled ops
        one-peace-vision.pkl in checkpoints/
Expect: the official results are 60.37 box AP and 52.85 mask AP; not measured here
Sizes:  base, on 16 GPUs: --checkpoint WEIGHTS --cfg-options model.backbone.arch=base \
            model.backbone.drop_path_rate=0.1 train_dataloader.batch_size=4 \
            optim_wrapper.paramwise_cfg.decay_rate=0.7
"""

_base_ = [
    "../_base_/models/onepeace_cascade-mask-rcnn.py",
    "../_base_/datasets/coco_lsj_1280.py",
    "../_base_/schedules/coco_92k.py",
    "../_base_/det_runtime.py",
    "../_base_/vision_branch.py",
]
model = dict(
    # At test time too: positions are those of the square.
    data_preprocessor=dict(pad_size_divisor=_base_.size[0]),
    backbone=dict(
        arch="giant",
        img_size=_base_.size[0],
        drop_path_rate=0.6,
        with_cp=True,
        init_cfg=_base_.vision_branch,
    ),
)
auto_scale_lr = dict(base_batch_size=64)
