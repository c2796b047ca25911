"""ONE-PEACE base with ViT-Adapter and Mask2Former on ADE20K at 512 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_vit-adapter_mask2former_ade20k-512.py 8 --checkpoint WEIGHTS
Needs:  ADE20K in data/ade; 8 GPUs, 2 images each; mmdetection, mmcv with compiled ops
        weights of this size from your own pretraining (none are released), or a longer schedule
Expect: not measured yet
Sizes:  tiny   --cfg-options model.backbone.arch=tiny model.backbone.drop_path_rate=0.1 \
                   optim_wrapper.optimizer.lr=1e-4
        large  --cfg-options model.backbone.arch=large model.backbone.drop_path_rate=0.3 \
                   model.backbone.with_cp=True optim_wrapper.optimizer.lr=2e-5 \
                   optim_wrapper.paramwise_cfg.decay_rate=0.95
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(arch="base", img_size=_base_.crop_size[0], drop_path_rate=0.2),
    decode_head=dict(
        feat_channels=256,
        num_classes=150,
        num_queries=100,
        pixel_decoder=dict(encoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=1024)))),
        transformer_decoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=2048))),
    ),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(decay_rate=0.9))
