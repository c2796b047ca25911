"""ONE-PEACE tiny with UPerNet on emoji scenes at 128 px, from scratch on a CPU.

Run:    make demo
Needs:  nothing; the data are made by tools/dataset_converters/emoji_scenes.py
Expect: see README.md
"""

_base_ = [
    "../_base_/models/onepeace_upernet.py",
    "../_base_/datasets/emoji_scenes_128.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime.py",
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
