"""The released ONE-PEACE classifier on ImageNet-1K at 384 px, 15 epochs.

Run:    tools/dist_train.sh configs/cls/onepeace-giant_imagenet-384.py 64
Needs:  ImageNet-1K in data/imagenet; 64 GPUs, 16 images each; mmpretrain, timm
        the official results start from an intermediate ImageNet-21K model that was not published;
        this recipe starts from one-peace-vision.pkl in checkpoints/
Expect: the official results are 89.558 top-1 and 98.984 top-5; not measured here
Sizes:  base: --checkpoint WEIGHTS --cfg-options model.backbone.arch=base \
            model.backbone.drop_path_rate=0.1 model.head.loss.label_smooth_val=0.1 \
            train_dataloader.batch_size=64 optim_wrapper.optimizer.lr=5e-4 \
            optim_wrapper.paramwise_cfg.decay_rate=0.65
"""

_base_ = [
    "../_base_/models/onepeace_classifier.py",
    "../_base_/datasets/imagenet_384.py",
    "../_base_/schedules/imagenet_15epochs.py",
    "../_base_/cls_runtime.py",
    "../_base_/vision_branch.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        img_size=_base_.size,
        drop_path_rate=0.4,
        with_cp=True,
        init_cfg=_base_.vision_branch,
    ),
    head=dict(num_classes=1000, loss=dict(label_smooth_val=0.3)),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5))
auto_scale_lr = dict(base_batch_size=1024)
