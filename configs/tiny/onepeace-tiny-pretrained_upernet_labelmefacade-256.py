"""The encoder of the tiny recipes of pretraining with UPerNet on LabelMeFacade at 256 px, on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny-pretrained_upernet_labelmefacade-256.py \
            --data-root DIR --checkpoint work_dirs/onepeace-tiny_vl_mixed-64/CKPT
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; a checkpoint of onepeace-tiny_vl_mixed-64.py, or of
        onepeace-tiny_vl_emoji-64.py; without one it starts from scratch
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
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256),
        img_size=_base_.crop_size[0],
        out_indices=-1,
        drop_path_rate=0.1,
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    neck=dict(_delete_=True, type="mmonepeace.SimpleFeaturePyramid", out_channels=128),
    decode_head=dict(channels=64, num_classes=8, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=8, norm_cfg=norm_cfg),
)
default_hooks = dict(checkpoint=dict(interval=60))
