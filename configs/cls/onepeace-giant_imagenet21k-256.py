"""The intermediate fine-tuning of the released ONE-PEACE classifier, ImageNet-21K at 256 px, 40 epochs.

Run:    tools/dist_train.sh configs/cls/onepeace-giant_imagenet21k-256.py 128
Needs:  ImageNet-21K in data/imagenet21k/train/SYNSET/*.JPEG, of 19,167 classes, and some of them in
        data/imagenet21k/val; one-peace-vision.pkl in checkpoints/; 128 GPUs, 24 images each;
        mmpretrain, timm
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_classifier.py",
    "../_base_/datasets/imagenet21k_256.py",
    "../_base_/schedules/imagenet_40epochs.py",
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
    head=dict(num_classes=19167),
)
auto_scale_lr = dict(base_batch_size=3072)
