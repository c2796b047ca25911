"""Stage one on emoji at 64 px, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/train.tsv data/emoji/tokenizer.json --vocab-size 2000
        mmonepeace pretrain configs/tiny/onepeace-tiny_vl_emoji-64.py --data-root DIR
Needs:  emoji and their names in DIR/{train,val}.tsv, with columns image and caption
Expect: on drawings by an artist not seen in training, with 1,212 names: R@1 of about 4 %
        (chance 0.1 %) and R@10 of about 26 %; about 5 minutes on 2 cores
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/emoji_64.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
model = dict(
    stage="vl",
    gather="full",
    equal_texts_match=True,
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256),
        img_size=64,
        modalities=dict(text=dict(vocab_size=2000), image={}),
        drop_path_rate=0.0,
        layer_scale_init=1.0,
        init_std=0.06,
        with_cp=False,
    ),
    decoder=dict(embed_dim=128, depth=1, num_heads=4, ffn_dim=256),
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=30, save_best="retrieval/mean_R@1", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=128)
