"""The encoder of emoji and their names with UPerNet on LabelMeFacade at 256 px, on a CPU.

Run:    mmonepeace train configs/tiny/onepeace-tiny-pretrained_upernet_labelmefacade-256.py \
            --data-root DIR --checkpoint work_dirs/onepeace-tiny_vl-overlapping_emoji-64/CKPT
Needs:  LabelMeFacade in DIR/{img_dir,ann_dir}; a checkpoint of onepeace-tiny_vl-overlapping_emoji-64.py;
        without one it starts from scratch
Expect: 43.3 mIoU on val, 39.0 from scratch (two seeds); 4 minutes on one core. LoRA, which trains 4.4 %
        of the backbone, had 37.5 of 41.1 from half of that pretraining (one seed): --cfg-options
        model.backbone.lora.rank=3 model.backbone.lora.alpha=24.0
        model.backbone.lora.targets=q,k,v,out,gate,up,down
        model.backbone.trained=norm,bias,layer_scale
"""

_base_ = ["./onepeace-tiny_upernet_labelmefacade-256.py"]
max_iters = 600
model = dict(backbone=dict(arch=dict(embed_dim=96, depth=2, ffn_dim=192), out_indices=[1]))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 2)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10))
