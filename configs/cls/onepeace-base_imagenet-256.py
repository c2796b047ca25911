"""ONE-PEACE base on ImageNet-1K at 256 px, 40 epochs.

Run:    tools/dist_train.sh configs/cls/onepeace-base_imagenet-256.py 16 --checkpoint WEIGHTS
Needs:  ImageNet-1K in data/imagenet; 16 GPUs, 64 images each; mmpretrain
        weights of this size from your own pretraining (none are released), or train longer
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_classifier.py",
    "../_base_/datasets/imagenet_256.py",
    "../_base_/schedules/imagenet_40epochs.py",
    "../_base_/cls_runtime.py",
]
model = dict(
    data_preprocessor=dict(num_classes=1000),
    backbone=dict(arch="base", img_size=256, drop_path_rate=0.1),
    head=dict(in_channels=768, num_classes=1000),
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=5e-4), paramwise_cfg=dict(decay_rate=0.65))
auto_scale_lr = dict(base_batch_size=1024)
