"""Stage one of ONE-PEACE as in the released script: COCO captions, 32 pairs on each of 8 GPUs.

Run:    torchrun --nproc-per-node 8 -m mmonepeace pretrain \
            configs/pretrain/onepeace-giant_vl_released.py --launcher pytorch
Needs:  COCO as .tsv files; the official tokenizer; 8 GPUs.
Memory: a step of 32 holds 45.3 GB on each GPU, as mmonepeace estimate says; not measured
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/coco_pairs_256.py",
    "../_base_/schedules/pretrain_vl_200k.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(stage="vl", backbone=dict(arch="giant", modalities=dict(text={}, image={})))
auto_scale_lr = dict(base_batch_size=256)
