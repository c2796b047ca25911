"""The setting of the paper's ablations (tables 11 to 13): ViT-B size, 20 M pairs, 20 epochs.

Run:    torchrun --nproc-per-node 8 -m mmonepeace pretrain \
            configs/pretrain/onepeace-base_vl_ablation.py --launcher pytorch
Needs:  20 million random pairs of LAION-2B in shards; COCO val; the official tokenizer; 8 GPUs with
        512 pairs each
Expect: COCO 5K zero-shot R@1 of 39.94 image to text and 26.94 text to image (table 12, all losses).
        Not measured here. The paper gives neither the learning rate nor the drop path rate of this
        setting: here they are the main run's and 0.1.
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/laion2b_coco_256.py",
    "../_base_/schedules/pretrain_vl_200k.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(
    stage="vl", backbone=dict(arch="base", modalities=dict(text={}, image={}), drop_path_rate=0.1)
)
train_dataloader = dict(batch_size=512, dataset=dict(batch_size=512))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.002, by_epoch=False, begin=0, end=3001),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=3000, end=97656),
]
train_cfg = dict(max_iters=97656, val_interval=4883)
auto_scale_lr = dict(base_batch_size=4096)
