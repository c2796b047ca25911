"""Baseline: mmdet's Faster R-CNN with ResNet-18 from scratch, same data and budget.

Run:    mmonepeace train configs/tiny/resnet18_faster-rcnn_bccd.py --data-root DIR
Needs:  mmdetection, mmcv with compiled ops; BCCD in DIR/{train,val,annotations}
Expect: about 14 minutes on 2 cores; AP 50, AP50 85, see benchmarks/, det_bccd
"""

_base_ = [
    "../_base_/models/faster-rcnn_64.py",
    "../_base_/datasets/bccd.py",
    "../_base_/schedules/tiny.py",
    "../_base_/det_runtime.py",
]
norm_cfg = dict(type="GN", num_groups=32, requires_grad=True)  # batches are small
model = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
        init_cfg=None,
    ),
    neck=dict(
        type="FPN", in_channels=[64, 128, 256, 512], out_channels=64, num_outs=5, norm_cfg=norm_cfg
    ),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(interval=60))
