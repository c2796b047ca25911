"""ONE-PEACE (the released giant) with UPerNet on ADE20K at 512 px, 160k steps.

Run:    tools/dist_train.sh configs/onepeace_upernet_ade20k.py 8
Needs:  ADE20K in data/ade; one-peace-vision.pkl in checkpoints/; 8 GPUs, 2 images each. 1.6 G
        parameters take 25 GB a GPU for weights, gradients and AdamW alone (16 bytes each, by
        arithmetic); activations are activation_checkpoint and attention runs in bfloat16. A 40 GB card is
        the least to try.
Expect: not measured yet. The official recipe has ViT-Adapter and Mask2Former instead of UPerNet;
        the paper's figure for it is 62.0 mIoU at 896 px.
"""

_base_ = [
    "_base_/models/onepeace_upernet.py",
    "_base_/datasets/ade20k_512.py",
    "_base_/schedules/160k.py",
    "_base_/runtime.py",
]
needs_weights = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
model = dict(
    backbone=dict(
        arch="giant",
        img_size=512,
        out_indices=[9, 19, 29, 39],
        drop_path_rate=0.5,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/one-peace-vision.pkl"),
    ),
    neck=dict(embed_dim=1536),
    decode_head=dict(in_channels=[1536] * 4, channels=1024, num_classes=150),
    auxiliary_head=dict(in_channels=1536, channels=256, num_classes=150),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(type="mmonepeace.BFloat16OptimWrapper")
