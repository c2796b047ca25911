"""ONE-PEACE tiny with Faster R-CNN on BCCD, blood cells, from scratch on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny_faster-rcnn_bccd.py --data-root DIR
Needs:  mmdetection, mmcv with compiled ops; BCCD in DIR/{train,val,annotations}
Expect: about 7 minutes on 2 cores; AP 29, AP50 54, see benchmarks/, det_bccd
"""

_base_ = [
    "../_base_/models/faster-rcnn_64.py",
    "../_base_/datasets/bccd.py",
    "../_base_/schedules/tiny.py",
    "../_base_/det_runtime.py",
]
model = dict(
    type="mmonepeace.FasterRCNN",
    backbone=dict(
        type="mmonepeace.OnePeaceViTDet",
        arch=dict(embed_dim=128, depth=3, num_heads=4, ffn_dim=256),  # as the tiny pretraining's
        img_size=320,
        global_blocks=[0, 1, 2],  # images have 300 patches
        layer_scale_init=1.0,
        init_std=0.06,
    ),
    neck=dict(type="mmonepeace.SimpleFeaturePyramid", out_channels=64),
)
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(interval=60))
