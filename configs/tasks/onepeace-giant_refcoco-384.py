"""Visual grounding on RefCOCO at 384 px.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_refcoco-384.py 8
Needs:  RefCOCO as tables; 8 GPUs, 8 micro-batches a step: --cfg-options
        optim_wrapper.accumulative_counts=8; the released one-peace.pt and its tokenizer in
        checkpoints/
Memory: a step of 4 holds 45.3 GB on each GPU, as mmonepeace estimate says; not measured
Expect: accuracy of 92.58 on val, 94.18 on testA and 89.26 on testB in the paper; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_grounder.py",
    "../_base_/datasets/refcoco_384.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, image=dict(img_size=256, rpb_sides=24)),
        drop_path_rate=0.4,
    ),
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=0.00015))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 0.00015, begin=0, end=3, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 0.00015,
        begin=3,
        end=30,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=30)
default_hooks = dict(checkpoint=dict(save_best="grounding/accuracy@0.5"))
auto_scale_lr = dict(base_batch_size=256)
