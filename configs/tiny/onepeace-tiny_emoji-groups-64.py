"""The encoder of the tiny pretraining as a classifier of emoji into eight groups, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny_emoji-groups-64.py --data-root DIR \
            [--checkpoint CKPT]
Needs:  emoji in DIR/{train,val}.tsv with columns image and group; mmpretrain. CKPT is one of
        onepeace-tiny_vl_emoji-64.py; without one it starts from scratch
Expect: 54.0 % top-1 on drawings by an artist not seen in training, from a checkpoint of 300
        steps; two minutes on one core
"""

_base_ = [
    "../_base_/models/onepeace_classifier.py",
    "../_base_/datasets/emoji_groups_64.py",
    "../_base_/schedules/tiny.py",
    "../_base_/cls_runtime.py",
]
model = dict(
    backbone=dict(
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256),
        img_size=64,
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    head=dict(num_classes=8),
)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=60))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=64)
