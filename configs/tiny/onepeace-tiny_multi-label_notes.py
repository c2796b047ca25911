"""Which instruments play at the same time? From scratch, or from names of notes, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_multi-label_notes.py
Needs:  tools/dataset_converters/note_questions.py --out data/note_questions
Expect: mean average precision of 59 % with a sound bank not seen in training, and of 66 % with the checkpoint
        of onepeace-tiny_al_gm-instruments-log-mel.py (chance 20.2 %; 2 seeds); 5 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/note_mixtures.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192),
        modalities=dict(
            audio=dict(
                features="log-mel",
                feature_dim=32,
                frame_stride=2,
                spec_masks=2,
                pos_depth=1,
                clip_seconds=1.5,
                equaliser=6.0,
            ),
        ),
        drop_path_rate=0.1,
        layer_scale_init=1.0,
        init_std=0.06,
        with_cp=False,
    ),
    head=dict(num_classes=10),
    loss=dict(type="mmonepeace.MultiLabelLoss"),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=1000),
]
train_cfg = dict(max_iters=1000, val_interval=500)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=100, save_best="multilabel/mAP"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
