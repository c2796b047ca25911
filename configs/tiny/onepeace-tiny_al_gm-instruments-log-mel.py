"""Contrast of notes of instruments and their names, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/train.tsv data/gm_instruments/tokenizer.json \
            --text-column label --vocab-size 2000
        mmonepeace pretrain configs/tiny/onepeace-tiny_al_gm-instruments-log-mel.py \
            --data-root DIR
Needs:  audio clips and their names in DIR/{train,val}.tsv, with columns audio and label
Expect: on a sound bank not seen in training, with 151 names: 27 % zero-shot accuracy (chance 0.7 %)
        and R@10 of about 73 % (two seeds); about 8 minutes on one core.
        Narrower than onepeace-tiny_al_gm-instruments.py and without its image branch: it takes no
        checkpoints of a first stage
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/gm_instruments.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
stage_one = None
tokenizer = "data/gm_instruments/tokenizer.json"
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
            text=dict(vocab_size=2000),
            audio=dict(
                features="log-mel",
                feature_dim=32,
                frame_stride=2,
                spec_masks=1,
                equaliser=6.0,  # for sound banks that sound like none of training
                pos_depth=1,
                clip_seconds=1.5,
            ),
        ),
        drop_path_rate=0.1,
        layer_scale_init=1.0,
        init_std=0.06,
        with_cp=False,
    ),
    decoder=dict(embed_dim=96, depth=1, num_heads=4, ffn_dim=192),
)
train_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=None, min_seconds=0, cache=True),
    dict(type="mmonepeace.PerturbAudio", max_seconds=1.2, speed=1.12, shift=0.05),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
val_pipeline = [
    dict(type="mmonepeace.LoadAudio", max_seconds=1.5),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=1500),
]
train_cfg = dict(max_iters=1500, val_interval=750)
default_hooks = dict(
    logger=dict(interval=25),
    checkpoint=dict(interval=150, save_best="zero_shot/top1", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=64)
