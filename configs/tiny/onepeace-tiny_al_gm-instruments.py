"""Stage two on notes of instruments, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/train.tsv data/gm_instruments/tokenizer.json \
            --text-column label --vocab-size 2000
        mmonepeace pretrain configs/tiny/onepeace-tiny_al_gm-instruments.py --data-root DIR
        With --stage-one CKPT --tokenizer JSON it starts from a first stage, with its tokenizer.
Needs:  audio clips and their names in DIR/{train,val}.tsv, with columns audio and label
Expect: on a sound bank not seen in training, with 151 names: audio-to-text R@1 of about 6 %
        (chance 0.7 %) and R@10 of about 42 % (6.6 %); about 5 minutes on 2 cores
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/gm_instruments.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
stage_one = None
model = dict(
    stage="al",
    gather="full",
    equal_texts_match=True,
    # Neither is in the released recipe: few of these names are in emoji captions, and the run is short.
    learn_words=True,
    denoising_weight=0.1,
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256),
        img_size=64,
        # The image branch of the first stage stays frozen: one checkpoint has all three branches.
        # The released 512 channels of the audio extractor are too slow for a CPU.
        modalities=dict(
            text=dict(vocab_size=2000),
            image={},
            audio=dict(feature_dim=32, pos_depth=2, clip_seconds=1.0),
        ),
        drop_path_rate=0.0,
        layer_scale_init=1.0,
        init_std=0.06,
        with_cp=False,
    ),
    decoder=dict(embed_dim=128, depth=1, num_heads=4, ffn_dim=256),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=30, save_best="retrieval/audio_to_text_R@1", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=48)
