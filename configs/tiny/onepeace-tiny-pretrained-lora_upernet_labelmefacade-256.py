"""LoRA, biases and norms of the encoder of emoji and their names, on LabelMeFacade at 256 px.

Run:    mmonepeace train configs/tiny/onepeace-tiny-pretrained-lora_upernet_labelmefacade-256.py \
            --data-root DIR --checkpoint work_dirs/onepeace-tiny_vl-overlapping_emoji-64/CKPT
Needs:  peft; LabelMeFacade in DIR/{img_dir,ann_dir}; a checkpoint of onepeace-tiny_vl-overlapping_emoji-64.py
Expect: MIOU
"""

_base_ = ["./onepeace-tiny-pretrained_upernet_labelmefacade-256.py"]
targets = ["q", "k", "v", "out", "gate", "up", "down"]
model = dict(backbone=dict(lora=dict(rank=3, alpha=6.0, targets=targets), trained=["norm", "bias"]))
