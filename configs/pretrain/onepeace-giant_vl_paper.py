"""Stage one of ONE-PEACE with the paper's numbers: images and texts, 32768 pairs a step.

Run:    srun ... python tools/pretrain.py configs/pretrain/onepeace-giant_vl_paper.py --launcher slurm
Needs:  1.5 billion filtered pairs of LAION-2B in shards; COCO val; the official tokenizer; 256 GPUs
        with 128 pairs each. 2.8 G parameters take 44 GB a GPU for weights, gradients and AdamW
        alone (16 bytes each, by arithmetic).
Expect: not measured yet. The paper does not say how gradients are clipped; 3.0 is the released
        script's.
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/laion2b_coco_256.py",
    "../_base_/schedules/pretrain_vl_200k.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(stage="vl", backbone=dict(arch="giant", modalities=dict(text={}, image={})))
