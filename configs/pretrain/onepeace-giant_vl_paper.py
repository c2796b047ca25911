"""Stage one of ONE-PEACE with the paper's settings: images and texts, 32768 pairs per step.

Run:    srun ... mmonepeace pretrain configs/pretrain/onepeace-giant_vl_paper.py --launcher slurm
Needs:  1.5 billion filtered pairs of LAION-2B in shards; COCO val; the official tokenizer; 256 GPUs
        with 128 pairs each. 2.8 G parameters take 44 GB per GPU for weights, gradients and
        AdamW alone (16 bytes each, computed, not measured).
Expect: not measured yet. The paper does not give the gradient clipping; 3.0 is from the
        released script.
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/laion2b_coco_256.py",
    "../_base_/schedules/pretrain_vl_200k.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(stage="vl", backbone=dict(arch="giant", modalities=dict(text={}, image={})))
