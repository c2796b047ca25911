"""ONE-PEACE base as an encoder-only mask transformer (EoMT) on ADE20K at 512 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-base_eomt_ade20k-512.py 8 --checkpoint WEIGHTS
Needs:  ADE20K in data/ade; 8 GPUs, 2 images each; no compiled ops
        weights of this size from your own pretraining (none are released), or a longer schedule
Expect: not measured yet
Sizes:  tiny   --cfg-options model.backbone.arch=tiny model.backbone.drop_path_rate=0.1
        large  --cfg-options model.backbone.arch=large model.backbone.drop_path_rate=0.3 \
                   model.backbone.num_blocks=4 model.backbone.with_cp=True \
                   optim_wrapper.paramwise_cfg.decay_rate=0.9
Crops:  change `crop` in _base_/datasets/ade20k_512.py, all else follows it; or, for one run,
        640 px --cfg-options model.backbone.img_size=640 "model.test_cfg.crop_size=(640,640)" \
                   "model.test_cfg.stride=(426,426)" \
                   "train_dataloader.dataset.pipeline.2.scale=(2560,640)" \
                   "train_dataloader.dataset.pipeline.3.crop_size=(640,640)" \
                   "val_dataloader.dataset.pipeline.1.scale=(2560,640)" \
                   "test_dataloader.dataset.pipeline.1.scale=(2560,640)"
"""

_base_ = [
    "../_base_/models/onepeace_eomt.py",
    "../_base_/datasets/ade20k_512.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
model = dict(
    backbone=dict(arch="base", img_size=_base_.crop_size[0], drop_path_rate=0.2),
    decode_head=dict(num_classes=150),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_rate=0.8))
