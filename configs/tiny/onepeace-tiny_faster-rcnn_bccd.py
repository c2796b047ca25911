"""ONE-PEACE tiny with Faster R-CNN on BCCD, blood cells, from scratch on a CPU.

Run:    python tools/train.py configs/tiny/onepeace-tiny_faster-rcnn_bccd.py --data-root DIR
Needs:  mmdetection, mmcv with compiled ops; BCCD in DIR/{train,val,annotations}
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/faster-rcnn_64.py",
    "../_base_/datasets/bccd.py",
    "../_base_/schedules/tiny.py",
    "../_base_/det_runtime.py",
]
model = dict(
    backbone=dict(
        type="mmonepeace.OnePeaceViTDet",
        arch=dict(embed_dim=192, depth=4, num_heads=3),
        img_size=320,
        window_size=8,
        global_blocks=[1, 3],
        layer_scale_init=1.0,
    ),
    neck=dict(type="mmonepeace.SimpleFeaturePyramid", in_channels=192, out_channels=64),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=4)
