"""A larger encoder of emoji and their names teaches a tiny one, without the names, on a CPU.

Run:    mmonepeace distill configs/tiny/onepeace-tiny_distill_emoji-64.py --data-root DIR \
            --checkpoint TEACHER [--features FEATURES --views 4]
Needs:  emoji in DIR/train.tsv with a column image; TEACHER, any checkpoint with an image branch, such as
        that of onepeace-tiny_vl_common-names-32.py
Expect: not measured yet. The checkpoint is what onepeace-tiny-pretrained_upernet_labelmefacade-256.py
        starts from: the student is the encoder of onepeace-tiny_vl-overlapping_emoji-64.py
"""

_base_ = [
    "../_base_/models/onepeace_distiller.py",
    "../_base_/datasets/emoji_images_64.py",
    "../_base_/schedules/distill_tiny.py",
    "../_base_/distill_runtime.py",
]
needs_teacher = "a checkpoint with an image branch, such as that of make pretrain-demo"
model = dict(
    backbone=dict(
        arch=dict(embed_dim=96, depth=2, num_heads=4, ffn_dim=192, stem="overlapping"),
        img_size=64,
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    teacher=dict(
        type="mmonepeace.OnePeaceTeacher",
        checkpoint="work_dirs/pretrain_demo/vl/iter_800.pth",
        backbone=dict(
            type="mmonepeace.OnePeace",
            arch=dict(embed_dim=96, depth=3, num_heads=4, ffn_dim=192, stem="overlapping"),
            img_size=32,
            final_norm=True,
            layer_scale_init=1.0,
        ),
    ),
)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=100))
auto_scale_lr = dict(base_batch_size=128)
