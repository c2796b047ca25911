"""Questions about notes that follow each other, answered with one of 18 words, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_answers_notes.py --checkpoint CKPT
Needs:  what `make audio-demo` makes, with notes in data/audio_demo/notes and CKPT in
        work_dirs/audio_demo/names; or, with notes in NOTES,
        tools/dataset_converters/note_questions.py --notes NOTES --out data/note_questions, a tokenizer:
        mmonepeace train-tokenizer NOTES/train.tsv:label data/note_questions/questions_train.tsv:text \
            data/note_questions/tokenizer.json --vocab-size 2000
        and CKPT of onepeace-tiny_al_gm-instruments-log-mel.py, trained with the same tokenizer
Expect: accuracy of 72.2 % with a sound bank not seen in training (3 runs); at most 21 % without
        listening
"""

_base_ = [
    "../_base_/models/onepeace_multimodal_classifier.py",
    "../_base_/datasets/note_answers.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192),
        modalities=dict(
            text=dict(vocab_size=2000),
            audio=dict(
                features="log-mel",
                feature_dim=32,
                frame_stride=2,
                spec_masks=1,
                equaliser=6.0,
                pos_depth=1,
                clip_seconds=3.0,
            ),
        ),
        drop_path_rate=0.1,
        layer_scale_init=1.0,
        init_std=0.3,  # with 0.06, attention stays even: no word finds its place
        with_cp=False,
    ),
    head=dict(num_classes=18),
    pool_over="text",
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.98)))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=1000),
]
train_cfg = dict(max_iters=1000, val_interval=500)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=100, save_best="accuracy/top1"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
