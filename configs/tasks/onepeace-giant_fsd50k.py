"""Sounds of FSD50K, several classes for a clip.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_fsd50k.py 8
Needs:  FSD50K as tables; 8 GPUs; the released one-peace.pt and its tokenizer in checkpoints/
Memory: a step of 2 holds 26.0 GB on each GPU, as mmonepeace estimate says; not measured
Expect: mAP of 69.7 in the paper; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/fsd50k_15s.py",
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
    head=dict(num_classes=200),
    loss=dict(type="mmonepeace.MultiLabelLoss"),
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=0.0001))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 0.0001, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 0.0001,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(save_best="multilabel/mAP"))
auto_scale_lr = dict(base_batch_size=128)
