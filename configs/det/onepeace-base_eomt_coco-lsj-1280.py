"""ONE-PEACE base as an encoder-only mask transformer (EoMT) for instances of COCO at 1280 px, 92k steps.

Run:    tools/dist_train.sh configs/det/onepeace-base_eomt_coco-lsj-1280.py 16 --checkpoint WEIGHTS
Needs:  COCO 2017 in data/coco; 16 GPUs, 4 images each; mmdetection, mmcv with compiled ops
        weights of this size from your own pretraining (none are released), or a longer schedule
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_eomt-instance.py",
    "../_base_/datasets/coco_lsj_1280.py",
    "../_base_/schedules/coco_92k.py",
    "../_base_/det_runtime.py",
]
model = dict(
    # At test time too: positions are those of the square.
    data_preprocessor=dict(pad_size_divisor=_base_.size[0]),
    backbone=dict(arch="base", img_size=_base_.size[0], drop_path_rate=0.1, with_cp=True),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7))
auto_scale_lr = dict(base_batch_size=64)
