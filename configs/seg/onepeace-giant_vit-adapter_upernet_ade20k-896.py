"""ONE-PEACE giant with ViT-Adapter and UPerNet on ADE20K at 896 px, 160k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_vit-adapter_upernet_ade20k-896.py 16
Needs:  ADE20K in data/ade; 16 GPUs, 1 image each; no compiled operators
        one-peace-vision.pkl in checkpoints/
Expect: not measured yet
"""

_base_ = [
    "../_base_/models/onepeace_vit-adapter_upernet.py",
    "../_base_/datasets/ade20k_896.py",
    "../_base_/schedules/160k.py",
    "../_base_/runtime.py",
]
needs_weights = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
model = dict(
    backbone=dict(
        arch="giant",
        img_size=896,
        drop_path_rate=0.5,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/one-peace-vision.pkl"),
    ),
    decode_head=dict(in_channels=[1536] * 4, channels=1024, num_classes=150),
    auxiliary_head=dict(in_channels=1536, channels=256, num_classes=150),
    test_cfg=dict(mode="slide", crop_size=(896, 896), stride=(512, 512)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-5), paramwise_cfg=dict(decay_rate=0.95))
