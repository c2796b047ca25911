"""Environmental sounds of ESC-50, one fold of five held out.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_esc50.py 8
Needs:  ESC-50 as a table; 8 GPUs. The usual measure is the mean of five such runs, with the tables
        of other folds; the released one-peace.pt and its tokenizer in checkpoints/
Memory: a step of 2 holds 26.0 GB on each GPU, as mmonepeace estimate says; not measured
Expect: the paper has no figure: it classifies ESC-50 without training (91.8 %); not measured here
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/esc50_fold5.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(audio=dict(clip_seconds=15)),
        drop_path_rate=0.5,
    ),
    head=dict(num_classes=50),
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=8e-05), paramwise_cfg=dict(decay_rate=0.95))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 8e-05, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 8e-05,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
auto_scale_lr = dict(base_batch_size=16)
