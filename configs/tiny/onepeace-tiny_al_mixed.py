"""Stage two on notes, environmental sounds, spoken digits and spoken names of stamps, on a CPU.

Run:    mmonepeace pretrain configs/tiny/onepeace-tiny_al_mixed.py --data-root DIR \
            --tokenizer DIR/tokenizer.json --stage-one work_dirs/onepeace-tiny_vl_mixed-64/CKPT
Needs:  DIR/{gm_instruments,esc10,fsdd,tuxpaint}/{train,val}.tsv; the tokenizer of the first stage
Expect: see benchmarks/, pretraining
"""

_base_ = ["./onepeace-tiny_al_gm-instruments.py"]
needs_data = (
    "DATA/{gm_instruments,esc10,fsdd,tuxpaint}/{train,val}.tsv with columns audio and label; "
    "tuxpaint's are effect, speech_en, speech_fr and speech_es with caption, which is English"
)
train_dataloader = dict(
    dataset=dict(
        ann_file=[
            "gm_instruments/train.tsv",
            dict(path="esc10/train.tsv", repeat=3),
            dict(path="fsdd/train.tsv", repeat=0.5),
            dict(path="tuxpaint/train.tsv", columns=dict(audio="effect", text="caption"), repeat=3),
            dict(path="tuxpaint/train.tsv", columns=dict(audio="speech_en", text="caption")),
            dict(path="tuxpaint/train.tsv", columns=dict(audio="speech_fr", text="caption")),
            dict(path="tuxpaint/train.tsv", columns=dict(audio="speech_es", text="caption")),
        ]
    )
)
val_dataloader = dict(
    dataset=dict(ann_file=["gm_instruments/val.tsv", "esc10/val.tsv", "fsdd/val.tsv"])
)
test_dataloader = val_dataloader
