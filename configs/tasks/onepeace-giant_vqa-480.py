"""Visual question answering on VQA v2 at 480 px.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_vqa-480.py 8
Needs:  VQA v2 as tables; 8 GPUs, 8 micro-batches a step: --cfg-options
        optim_wrapper.accumulative_counts=8; the released one-peace.pt and its tokenizer in
        checkpoints/
Memory: a step of 8 holds 46.8 GB on each GPU, as mmonepeace estimate says; not measured
Expect: 82.6 on test-dev in the paper, at 768 px; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/vqa_480.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, image=dict(img_size=256, rpb_sides=30)),
        drop_path_rate=0.5,
    ),
    head=dict(num_classes=3129, pooler=True),
    pool_over="text",
    loss=dict(type="mmonepeace.MultiLabelLoss"),
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=0.0003), paramwise_cfg=dict(decay_rate=0.85))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 0.0003, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 0.0003,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(save_best="vqa/accuracy"))
auto_scale_lr = dict(base_batch_size=512)
