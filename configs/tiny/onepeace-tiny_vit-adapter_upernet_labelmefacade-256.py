"""ONE-PEACE tiny with ViT-Adapter and UPerNet on LabelMeFacade at 256 px, from scratch on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_vit-adapter_upernet_labelmefacade-256.py \
            --data-root DIR
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; no compiled operators
Expect: 31.2 mIoU after 200 steps (train_cfg.max_iters=200 param_scheduler.1.end=200, one seed),
        20 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_upernet.py",
    "../_base_/datasets/labelmefacade_256.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
]
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    backbone=dict(
        arch="tiny",
        img_size=_base_.crop_size[0],
        spatial_dim=32,
        drop_path_rate=0.1,
        layer_scale_init=0.1,
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(channels=64, num_classes=8, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=8, norm_cfg=norm_cfg),
)
default_hooks = dict(checkpoint=dict(interval=60))
