"""Baseline: mmseg's own ViT-tiny with its usual neck and UPerNet, same data and budget.

Run:    mmonepeace train configs/tiny/vit-tiny_upernet_labelmefacade-256.py --data-root DIR
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; about 12 minutes on 2 cores
Expect: see benchmarks/
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/labelmefacade_256.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
]
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    backbone=dict(
        _delete_=True,
        type="VisionTransformer",
        img_size=(256, 256),
        patch_size=16,
        embed_dims=192,
        num_layers=12,
        num_heads=3,
        mlp_ratio=4,
        out_indices=(2, 5, 8, 11),
        qkv_bias=True,
        drop_path_rate=0.1,
        norm_cfg=dict(type="LN", eps=1e-6),
        act_cfg=dict(type="GELU"),
    ),
    neck=dict(
        _delete_=True,
        type="MultiLevelNeck",
        in_channels=[192] * 4,
        out_channels=192,
        scales=[4, 2, 1, 0.5],
    ),
    decode_head=dict(in_channels=[192] * 4, channels=64, num_classes=8, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=192, channels=64, num_classes=8, norm_cfg=norm_cfg),
)
default_hooks = dict(checkpoint=dict(interval=60))
