"""Photographs and captions at 64 px by contrast alone, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/train.tsv data/flickr1k/tokenizer.json --vocab-size 2000
        mmonepeace pretrain configs/tiny/onepeace-tiny_vl_flickr1k-64.py --data-root DIR
Needs:  photographs in DIR/{train,val}.tsv, with columns image and caption, a row for each caption
Expect: among 150 photographs of val, R@10 of 21 ± 4 % image to text and 20 ± 2 % text to image (chance
        7 %; three seeds); 5 minutes on one core. More steps overfit
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/flickr1k.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(
    stage="vl",
    gather="full",
    equal_images_match=True,
    denoising_weight=0.0,  # patches of the overlapping stem see their neighbours
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(
            rotation=5,
            zoom=1.6,
            aspect=1.2,
            shear=0.05,
            shift=0.3,
            flip=0.5,
            hue=10,
            saturation=(0.6, 1.4),
            grey=0.1,
            cover=0.4,
            contrast=1.4,
            brightness=0.15,
        ),
    ),
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,
        modalities=dict(text=dict(vocab_size=2000), image={}),
        drop_path_rate=0.2,
        layer_scale_init=1.0,
        init_std=0.2,
        with_cp=False,
    ),
    decoder=dict(embed_dim=96, depth=1, num_heads=4, ffn_dim=192),
)
# With 1.5e-3 all embeddings were the same after 50 steps, and stayed so.
optim_wrapper = dict(optimizer=dict(lr=7e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=201),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=200, end=1000),
]
train_cfg = dict(max_iters=1000, val_interval=500)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=100, save_best="retrieval/mean_R@10", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=128)
