"""Stage two of ONE-PEACE as in the released script: 16 pairs on each of 8 GPUs, 10 epochs.

Run:    torchrun --nproc-per-node 8 -m mmonepeace pretrain \
            configs/pretrain/onepeace-giant_al_released.py --stage-one CKPT --launcher pytorch
Needs:  the checkpoint of stage one; Clotho, AudioCaps and MACS as .tsv files; ESC-50; the official
        tokenizer; 8 GPUs
Memory: a step of 16 holds 42.1 GB on each GPU, as mmonepeace estimate says; not measured
Expect: not measured yet. An epoch is counted as 56,870 pairs, one caption per clip: 445 updates.
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/audio_pairs_15s.py",
    "../_base_/schedules/pretrain_al_10epochs.py",
    "../_base_/pretrain_runtime.py",
]
stage_one = "work_dirs/onepeace-giant_vl_released/iter_200000.pth"
model = dict(stage="al", backbone=dict(arch="giant", modalities=dict(text={}, audio={})))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.005, by_epoch=False, begin=0, end=446),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=445, end=4450),
]
train_cfg = dict(max_iters=4450, val_interval=445)
default_hooks = dict(checkpoint=dict(interval=445))
auto_scale_lr = dict(base_batch_size=128)
