"""NLVR2 at 256 px: is a statement about two images true?

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_nlvr2-256.py 8
Needs:  NLVR2 as tables; 8 GPUs, 8 micro-batches a step: --cfg-options
        optim_wrapper.accumulative_counts=8; the released one-peace.pt and its tokenizer in
        checkpoints/
Memory: a step of 2 holds 44.5 GB on each GPU, as mmonepeace estimate says; not measured
Expect: accuracy of 87.8 on dev and 88.3 on test-P in the paper; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/nlvr2_256.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, image=dict(img_size=256, rpb_sides=16)),
        drop_path_rate=0.4,
    ),
    head=dict(num_classes=2, num_views=2),
    pool_over="text",
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=0.0001))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 0.0001, begin=0, end=2.5, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 0.0001,
        begin=2.5,
        end=25,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=25)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
auto_scale_lr = dict(base_batch_size=128)
