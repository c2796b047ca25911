"""Contrast of spoken digits and their names, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/train.tsv data/fsdd/tokenizer.json --text-column label \
            --vocab-size 1000
        mmonepeace pretrain configs/tiny/onepeace-tiny_al_fsdd.py --data-root DIR
Needs:  the Free Spoken Digit Dataset in DIR/{train,val}.tsv with columns audio and label
Expect: zero-shot accuracy of 99 % on val, 90 % on a speaker who was left out of training (three seeds
        each, see benchmarks/, recipes); about 8 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/fsdd.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
stage_one = None
model = dict(
    stage="al",
    gather="full",
    equal_texts_match=True,
    label_smoothing=0.1,
    learn_all=True,
    denoising_weight=0.0,
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192),
        modalities=dict(
            text=dict(vocab_size=1000),
            audio=dict(
                features="log-mel", feature_dim=32, spec_masks=2, pos_depth=1, clip_seconds=2.3
            ),
        ),
        drop_path_rate=0.1,
        layer_scale_init=1.0,
        init_std=0.06,
        with_cp=False,
    ),
    decoder=dict(embed_dim=96, depth=1, num_heads=4, ffn_dim=192),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(max_iters=1000, val_interval=500)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=100, save_best="zero_shot/top1", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=64)
