"""A small segmentor with UPerNet for tests of tools and checks, which rely on what is in it.

The recipe of the demo may change; this one stays. Its data are those of `seg_data`.
"""

_base_ = [
    "../../configs/_base_/models/onepeace_upernet.py",
    "scenes.py",
    "../../configs/_base_/schedules/tiny.py",
    "../../configs/_base_/runtime.py",
]
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    backbone=dict(
        arch="tiny", img_size=_base_.crop_size[0], out_indices=[2, 5, 8, 11], layer_scale_init=0.03
    ),
    neck=dict(norm_cfg=norm_cfg),
    decode_head=dict(channels=64, num_classes=9, norm_cfg=norm_cfg),
    auxiliary_head=dict(channels=64, num_classes=9, norm_cfg=norm_cfg),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(checkpoint=dict(interval=60))
