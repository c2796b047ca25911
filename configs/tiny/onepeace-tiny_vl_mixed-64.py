"""Stage one on emoji, photographs and stamps at 64 px, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/emoji/train.tsv DIR/flickr1k/train.tsv \
            DIR/tuxpaint/train.tsv DIR/gm_instruments/train.tsv:label DIR/esc10/train.tsv \
            DIR/fsdd/train.tsv DIR/tokenizer.json --vocab-size 2000
        mmonepeace pretrain configs/tiny/onepeace-tiny_vl_mixed-64.py --data-root DIR \
            --tokenizer DIR/tokenizer.json
Needs:  DIR/{emoji,flickr1k,tuxpaint}/{train,val}.tsv, with columns image and caption
Expect: see benchmarks/, pretraining
"""

_base_ = ["./onepeace-tiny_vl_emoji-64.py"]
needs_data = "DATA/{emoji,flickr1k,tuxpaint}/{train,val}.tsv with columns image and caption"
train_dataloader = dict(
    dataset=dict(
        ann_file=[
            "emoji/train.tsv",
            "flickr1k/train.tsv",
            dict(path="tuxpaint/train.tsv", repeat=3),
        ]
    )
)
val_dataloader = dict(
    dataset=dict(ann_file=["emoji/val.tsv", "flickr1k/val.tsv", "tuxpaint/val.tsv"])
)
test_dataloader = val_dataloader
