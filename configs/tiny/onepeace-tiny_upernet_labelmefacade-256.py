"""ONE-PEACE tiny with UPerNet on LabelMeFacade at 256 px, from scratch on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny_upernet_labelmefacade-256.py \
            --data-root DIR
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
    backbone=dict(
        arch="tiny",
        img_size=_base_.crop_size[0],
        out_indices=[2, 5, 8, 11],
        drop_path_rate=0.1,
        layer_scale_init=0.1,
    ),
    neck=dict(norm_cfg=norm_cfg),
    decode_head=dict(channels=64, num_classes=8, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=8, norm_cfg=norm_cfg),
)
default_hooks = dict(checkpoint=dict(interval=60))
