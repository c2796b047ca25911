"""ONE-PEACE (the released giant) as an encoder-only mask transformer (EoMT) on ADE20K at 896 px, 40k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_eomt_ade20k-896.py 16
Needs:  ADE20K in data/ade; one-peace-vision.pkl in checkpoints/; 16 GPUs, 1 image each; no compiled ops
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_eomt.py",
    "../_base_/datasets/ade20k_896.py",
    "../_base_/schedules/40k.py",
    "../_base_/runtime.py",
    "../_base_/vision_branch.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        img_size=_base_.crop_size[0],
        num_queries=200,
        num_blocks=5,
        drop_path_rate=0.5,
        with_cp=True,
        init_cfg=_base_.vision_branch,
    ),
    decode_head=dict(num_classes=150),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(
    type="mmonepeace.BFloat16OptimWrapper",
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(decay_rate=0.875),  # over 40 blocks what 0.8 is over EoMT's 24
)
default_hooks = dict(checkpoint=dict(interval=4000))
