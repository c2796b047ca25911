"""Photographs and captions at 64 px: fine-tuning of a retriever, from scratch or from CKPT, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_retrieval_flickr1k-64.py
Needs:  what onepeace-tiny_vl_flickr1k-64.py needs; --checkpoint CKPT of its pretraining or of another
Expect: mean recall of 12.6 % with that checkpoint, of 9.5 % from scratch, among 150 photographs of val
        (1 and 2 seeds); 3 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_retriever.py",
    "../_base_/datasets/flickr1k.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    equal_images_match=True,
    gather="full",
    label_smoothing=0.1,
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,
        modalities=dict(text=dict(vocab_size=2000), image={}),
        drop_path_rate=0.2,
        layer_scale_init=1.0,
        init_std=0.2,
        with_cp=False,
    ),
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(
            rotation=5,
            zoom=1.6,
            aspect=1.2,
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
)
optim_wrapper = dict(optimizer=dict(lr=7e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=500),
]
train_cfg = dict(max_iters=500, val_interval=250)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=50, save_best="retrieval/r_mean"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=128)
