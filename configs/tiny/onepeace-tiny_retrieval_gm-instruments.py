"""Notes of instruments and their names: fine-tuning of an audio-text retriever, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_retrieval_gm-instruments.py --data-root DIR
Needs:  what onepeace-tiny_al_gm-instruments-log-mel.py needs; it may start from that one's
        --checkpoint CKPT, or from scratch
Expect: on a sound bank not seen in training, with 151 names, from scratch: R@1 of 20 % from a note to
        its name and of 25 % back (chance 0.7 %), mean recall of 48 % (one run); 5 minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_retriever.py",
    "../_base_/datasets/gm_instruments.py",
    "../_base_/schedules/tiny.py",
    "../_base_/tasks_runtime.py",
]
tokenizer = "data/gm_instruments/tokenizer.json"
model = dict(
    equal_texts_match=True,
    gather="full",
    label_smoothing=0.1,
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
val_evaluator = [dict(type="mmonepeace.RecallAtK")]
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=60, save_best="retrieval/r_mean"))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
