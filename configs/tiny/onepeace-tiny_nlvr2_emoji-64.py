"""Statements about two scenes of emoji, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_nlvr2_emoji-64.py --checkpoint CKPT
Needs:  tools/dataset_converters/emoji_questions.py --out data/emoji_questions, and a tokenizer:
        mmonepeace train-tokenizer data/emoji_questions/statements_train.tsv:text \
            data/emoji_questions/tokenizer.json --vocab-size 500
        CKPT of onepeace-tiny_vqa_emoji-64.py, trained with the same tokenizer
Expect: accuracy of 55 % (chance 50 %; 2 seeds)
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/emoji_statements_64.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=96, depth=3, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,
        modalities=dict(text=dict(vocab_size=500), image=dict(initial_positions="sine")),
        layer_scale_init=1.0,
        init_std=0.3,  # with 0.06, attention stays even: no word finds its place
        with_cp=False,
    ),
    head=dict(num_classes=2, num_views=2),
    pool_over="text",
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(hue=10, saturation=(0.6, 1.4), grey=0.1, contrast=1.4, brightness=0.15),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=2000),
]
train_cfg = dict(max_iters=2000, val_interval=500)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=200, save_best="accuracy/top1"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
