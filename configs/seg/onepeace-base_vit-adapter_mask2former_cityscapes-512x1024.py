"""ONE-PEACE base with ViT-Adapter and Mask2Former on Cityscapes, crops of 512 x 1024 px, 80k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_vit-adapter_mask2former_cityscapes-512x1024.py 8 --checkpoint WEIGHTS
Needs:  Cityscapes in data/cityscapes; 8 GPUs, 2 images each; mmdetection, mmcv with compiled ops
        weights of this size from your own pretraining (none are released), or a longer schedule
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former.py",
    "../_base_/datasets/cityscapes_512x1024.py",
    "../_base_/schedules/80k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(arch="base", img_size=_base_.crop_size[0], drop_path_rate=0.2),
    decode_head=dict(
        feat_channels=256,
        num_classes=19,
        num_queries=100,
        pixel_decoder=dict(encoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=1024)))),
        transformer_decoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=2048))),
    ),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(decay_rate=0.9))
default_hooks = dict(checkpoint=dict(interval=8000))
