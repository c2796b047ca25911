"""ONE-PEACE tiny with ViT-Adapter and Mask2Former on emoji scenes at 128 px, from scratch on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny_vit-adapter_mask2former_emoji-128.py
Needs:  the data of `make demo-data`; mmdetection, mmcv with compiled ops: make env-full
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_mask2former.py",
    "../_base_/datasets/emoji_scenes_128.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(
        arch="tiny",
        img_size=_base_.crop_size[0],
        spatial_dim=32,
        layer_scale_init=0.03,
        norm_cfg=dict(type="BN", requires_grad=True),
    ),
    decode_head=dict(
        feat_channels=256,
        num_classes=9,
        num_queries=20,
        pixel_decoder=dict(
            encoder=dict(num_layers=2, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=1024)))
        ),
        transformer_decoder=dict(
            num_layers=3, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=2048))
        ),
        train_cfg=dict(num_points=1024),
    ),
    test_cfg=dict(mode="slide", crop_size=(128, 128), stride=(85, 85)),
)
default_hooks = dict(checkpoint=dict(interval=60))
