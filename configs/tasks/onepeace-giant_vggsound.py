"""Sounds of VGGSound.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_vggsound.py 8
Needs:  VGGSound as tables; 8 GPUs; the released one-peace.pt and its tokenizer in checkpoints/
Memory: a step of 8 holds 30.4 GB on each GPU, as mmonepeace estimate says; not measured
Expect: accuracy of 59.6 in the paper; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/vggsound_15s.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(audio=dict(clip_seconds=15)),
        drop_path_rate=0.6,
    ),
    head=dict(num_classes=309),
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
auto_scale_lr = dict(base_batch_size=512)
