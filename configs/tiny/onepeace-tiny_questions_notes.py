"""Questions about notes that follow each other: which of four candidates is right? From scratch.

Run:    mmonepeace train configs/tiny/onepeace-tiny_questions_notes.py
Needs:  tools/dataset_converters/note_questions.py --out data/note_questions, and a tokenizer:
        mmonepeace train-tokenizer data/note_questions/questions_train.tsv:text \
            data/note_questions/tokenizer.json --vocab-size 500
Expect: chance, 25 %: in 1,500 steps all candidates keep the same score, whatever the start
        (benchmarks/ideas.md). onepeace-tiny_answers_notes.py learns the same questions
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/note_questions.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=96, depth=3, num_heads=4, ffn_dim=192),
        modalities=dict(
            text=dict(vocab_size=500),
            audio=dict(
                features="log-mel",
                feature_dim=32,
                frame_stride=2,
                spec_masks=2,
                pos_depth=1,
                clip_seconds=3.0,
                equaliser=6.0,
            ),
        ),
        drop_path_rate=0.1,
        layer_scale_init=1.0,
        init_std=0.3,  # with 0.06, attention stays even: no word finds its place
        with_cp=False,
    ),
    head=dict(num_classes=1),
    pool_over="text",
    loss=dict(type="mmonepeace.HingeLoss"),
    num_candidates=4,
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=1500),
]
train_cfg = dict(max_iters=1500, val_interval=500)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=150, save_best="accuracy/top1"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=32)
