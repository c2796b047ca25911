"""Audio question answering on AVQA, by sound alone: which of four candidates is right?

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_avqa.py 8
Needs:  AVQA as tables; 8 GPUs, 16 micro-batches a step: --cfg-options
        optim_wrapper.accumulative_counts=16; the released one-peace.pt and its tokenizer in
        checkpoints/
Memory: a step of 1 holds 46.4 GB on each GPU, as mmonepeace estimate says; not measured
Expect: accuracy of 86.2 in the paper; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/avqa_15s.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, audio=dict(clip_seconds=15)),
        drop_path_rate=0.5,
    ),
    head=dict(num_classes=1),
    pool_over="text",
    loss=dict(type="mmonepeace.HingeLoss"),
    num_candidates=4,
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=7e-05))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 7e-05, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 7e-05,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
auto_scale_lr = dict(base_batch_size=128)
