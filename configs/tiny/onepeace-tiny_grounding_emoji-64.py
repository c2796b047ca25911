"""The box of what a phrase names in a scene of emoji, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_grounding_emoji-64.py --checkpoint CKPT
Needs:  tools/dataset_converters/emoji_phrases.py --out data/emoji_phrases, and a tokenizer:
        mmonepeace train-tokenizer data/emoji_phrases/train.tsv:text data/emoji_phrases/tokenizer.json \
            --vocab-size 500
        CKPT of onepeace-tiny_vl_emoji-names-32.py
Expect: accuracy of 45 to 64 % at IoU 0.5 (3 seeds). Who does not read the phrase and knows the boxes of
        all drawings has 35 %, who does not see the scene 12 %. 11 minutes on one core;
        all of `make ground-demo` takes 9 on two
"""

_base_ = [
    "../_base_/models/onepeace_grounder.py",
    "../_base_/datasets/emoji_phrases_64.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    pool_over="text",
    backbone=dict(
        arch=dict(embed_dim=96, depth=3, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,
        modalities=dict(text=dict(vocab_size=500), image=dict(initial_positions="sine")),
        layer_scale_init=1.0,
        init_std=0.3,  # with 0.06, attention stays even: no word finds its place
        with_cp=False,
    ),
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(hue=10, saturation=(0.6, 1.4), grey=0.1, contrast=1.4, brightness=0.15),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=3400),
]
train_cfg = dict(max_iters=3400, val_interval=1700)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=340, save_best="grounding/accuracy@0.5")
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
