"""The encoder of the tiny recipes of pretraining with UPerNet on LabelMeFacade at 256 px, on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny-pretrained_upernet_labelmefacade-256.py \
            --data-root DIR --checkpoint work_dirs/onepeace-tiny_vl_mixed-64/CKPT
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; a checkpoint of onepeace-tiny_vl_mixed-64.py, or of
        onepeace-tiny_vl_emoji-64.py; without one it starts from scratch
Expect: see benchmarks/
"""

_base_ = ["./onepeace-tiny_upernet_labelmefacade-256.py"]
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=128, depth=3, num_heads=4, ffn_dim=256),
        out_indices=-1,
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    neck=dict(_delete_=True, type="mmonepeace.SimpleFeaturePyramid", out_channels=128),
)
