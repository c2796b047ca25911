"""Motions of emoji, which no single frame shows, from scratch on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_video_motions.py
        without time: --cfg-options train_dataloader.dataset.pipeline.0.order=single \
            val_dataloader.dataset.pipeline.0.order=single
        without its order: --cfg-options train_dataloader.dataset.pipeline.0.order=shuffled \
            val_dataloader.dataset.pipeline.0.order=shuffled
Needs:  tools/dataset_converters/emoji_motions.py --out data/emoji_motions
Expect: accuracy of 85.5 % in 1,200 steps, 3 to 10 minutes (one run; chance 12.5 %; nothing that ignores the
        order of the frames exceeds 50 %; the controls have not been trained)
"""

_base_ = [
    "../_base_/models/onepeace_video_classifier.py",
    "../_base_/datasets/emoji_motions_48.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=64, depth=3, num_heads=4, ffn_dim=128, stem="overlapping"),
        img_size=48,
        num_frames=8,
        modalities=dict(image=dict(initial_positions="sine")),
        layer_scale_init=1.0,
        init_std=0.3,  # with 0.12, attention stays even for more than 1,200 steps
        trained=None,  # there is no pretrained image encoder
        with_cp=False,
    ),
    head=dict(num_classes=8, dropout=0.1),
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(hue=30, saturation=(0.5, 1.5), grey=0.1, contrast=1.4, brightness=0.15),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=1200),
]
train_cfg = dict(max_iters=1200, val_interval=400)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=100, save_best="accuracy/top1"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=32)
