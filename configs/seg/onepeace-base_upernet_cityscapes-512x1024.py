"""ONE-PEACE base with UPerNet on Cityscapes, rectangular crops of 512 x 1024 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_upernet_cityscapes-512x1024.py 8 --checkpoint WEIGHTS
Needs:  Cityscapes in data/cityscapes; 8 GPUs, 2 images each
        weights of this size from your own pretraining (none are released), or a longer schedule
Expect: not measured yet
Sizes:  large  --cfg-options model.backbone.arch=large model.backbone.drop_path_rate=0.3 \
                   model.backbone.with_cp=True model.decode_head.channels=1024 \
                   optim_wrapper.optimizer.lr=2e-5 optim_wrapper.paramwise_cfg.decay_rate=0.95
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/cityscapes_512x1024.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(arch="base", img_size=_base_.crop_size[0], drop_path_rate=0.2),
    decode_head=dict(channels=512, num_classes=19),
    auxiliary_head=dict(channels=256, num_classes=19),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(optimizer=dict(lr=3e-5), paramwise_cfg=dict(decay_rate=0.9))
