"""Parts of scenes of emoji and the names of what they show, by contrast; to fine-tune on phrases.

Run:    mmonepeace pretrain configs/tiny/onepeace-tiny_vl_emoji-names-32.py
Needs:  what onepeace-tiny_grounding_emoji-64.py needs
Expect: zero-shot accuracy of 68 % on drawings by another artist, with 8 names (chance 12 %; 3 seeds);
        3 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/emoji_names_32.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(
    stage="vl",
    gather="full",
    equal_texts_match=True,
    denoising_weight=0.0,  # patches of the overlapping stem see their neighbours
    label_smoothing=0.1,
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(
            rotation=8,
            zoom=1.15,
            hue=10,
            saturation=(0.6, 1.4),
            grey=0.1,
            contrast=1.4,
            brightness=0.15,
        ),
    ),
    backbone=dict(
        arch=dict(embed_dim=96, depth=3, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,  # of the scenes
        modalities=dict(text=dict(vocab_size=500), image=dict(initial_positions="sine")),
        drop_path_rate=0.0,
        layer_scale_init=1.0,
        init_std=0.3,  # with 0.06, attention stays even: no word finds its place
        with_cp=False,
    ),
    decoder=dict(embed_dim=96, depth=1, num_heads=4, ffn_dim=192),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=800),
]
train_cfg = dict(max_iters=800, val_interval=400)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=80, save_best="zero_shot/top1", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=128)
