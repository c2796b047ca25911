"""The released ONE-PEACE classifier on ImageNet-1K at 384 px, 15 epochs.

Run:    tools/dist_train.sh configs/cls/onepeace-giant_imagenet-384.py 64
Needs:  ImageNet-1K in data/imagenet; 64 GPUs, 16 images each; mmpretrain
        the released figures start from an intermediate ImageNet-21K model that was not published;
        this recipe starts from one-peace-vision.pkl in checkpoints/
Expect: the official figures are 89.558 top-1 and 98.984 top-5; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_classifier.py",
    "../_base_/datasets/imagenet_384.py",
    "../_base_/schedules/imagenet_15epochs.py",
    "../_base_/cls_runtime.py",
]
needs_weights = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
model = dict(
    data_preprocessor=dict(num_classes=1000),
    backbone=dict(
        arch="giant",
        img_size=384,
        drop_path_rate=0.4,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/one-peace-vision.pkl"),
    ),
    head=dict(in_channels=1536, num_classes=1000, loss=dict(label_smooth_val=0.3)),
)
optim_wrapper = dict(optimizer=dict(lr=3e-5))
auto_scale_lr = dict(base_batch_size=1024)
