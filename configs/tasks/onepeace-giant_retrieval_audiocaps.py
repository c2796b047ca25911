"""Audio-text retrieval on Clotho, AudioCaps and MACS together.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_retrieval_audiocaps.py 8
Needs:  Clotho, AudioCaps and MACS as tables; 8 GPUs; the released one-peace.pt and its tokenizer in
        checkpoints/
Memory: a step of 2 holds 44.3 GB on each GPU, as mmonepeace estimate says; not measured
Expect: R@1 of 51.0 audio to text and 42.5 text to audio on AudioCaps in the paper; not measured
        here
"""

_base_ = [
    "../_base_/models/onepeace_retriever.py",
    "../_base_/datasets/audio_retrieval_20s.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, audio=dict(clip_seconds=20)),
        drop_path_rate=0.9,
    ),
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=0.00015), paramwise_cfg=dict(decay_rate=0.95))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 0.00015, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 0.00015,
        begin=1,
        end=10,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=10)
default_hooks = dict(checkpoint=dict(save_best="retrieval/r_mean"))
auto_scale_lr = dict(base_batch_size=16)
