"""Image and text of emoji at 64 px by contrast alone, from scratch on a CPU.

Run:    mmonepeace train-tokenizer DIR/train.tsv data/emoji/tokenizer.json --vocab-size 2000
        mmonepeace pretrain configs/tiny/onepeace-tiny_vl-overlapping_emoji-64.py --data-root DIR
Needs:  emoji and their names in DIR/{train,val}.tsv, with columns image and caption
Expect: on drawings by an artist not seen in training, with 1,175 names: R@1 of 31 %
        (chance 0.1 %) and R@10 of 74 %, text to image 2 % more (3 seeds); 12 minutes on one core.
        Narrower than onepeace-tiny_vl_emoji-64.py and with another stem: the recipes of stage
        two do not take its checkpoints
"""

_base_ = [
    "../_base_/models/onepeace_pretrainer.py",
    "../_base_/datasets/emoji_64.py",
    "../_base_/schedules/pretrain_tiny.py",
    "../_base_/pretrain_runtime.py",
]
tokenizer = "data/emoji/tokenizer.json"
model = dict(
    stage="vl",
    gather="full",
    equal_texts_match=True,
    denoising_weight=0.0,  # patches of the overlapping stem see their neighbours
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(
            rotation=8,
            zoom=1.2,
            aspect=1.1,
            shear=0.08,
            shift=0.1,
            flip=0.3,
            hue=20,
            saturation=(0.5, 1.3),
            grey=0.1,
            contrast=1.35,
            brightness=0.12,
        ),
    ),
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,
        modalities=dict(text=dict(vocab_size=2000), image={}),
        drop_path_rate=0.0,
        layer_scale_init=1.0,
        init_std=0.06,
        with_cp=False,
    ),
    decoder=dict(embed_dim=96, depth=1, num_heads=4, ffn_dim=192),
)
train_pipeline = [
    dict(type="mmonepeace.LoadImage", size=64, cache=True),
    dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="dataset"),
    dict(type="mmonepeace.PackModalities"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=3000),
]
train_cfg = dict(max_iters=3000, val_interval=1000)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=250, save_best="retrieval/mean_R@1", rule="greater"),
)
auto_scale_lr = dict(base_batch_size=128)
