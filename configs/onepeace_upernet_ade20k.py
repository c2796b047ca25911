"""ONE-PEACE (the released giant) with UPerNet on ADE20K at 512 px, 160k steps.

Run:    tools/dist_train.sh configs/onepeace_upernet_ade20k.py 8
Needs:  ADE20K in data/ade; one-peace-vision.pkl in checkpoints/; 8 GPUs, 2 images each. A step holds
        27.2 GB on each (mmonepeace estimate configs/onepeace_upernet_ade20k.py: computed, not
        measured), all but 0.3 GB of it weights, gradients and AdamW; activations are recomputed
        and attention runs in bfloat16. Try it with at least 40 GB per GPU.
Expect: not measured yet. The official recipe has ViT-Adapter and Mask2Former instead of UPerNet;
        for it the paper reports 62.0 mIoU at 896 px.
Sizes:  configs/seg/onepeace-base_upernet_ade20k-512.py is the recipe of the others
Crops:  896 px is one change, of the data set: ade20k_896.py instead of ade20k_512.py
"""

_base_ = [
    "_base_/models/onepeace_upernet.py",
    "_base_/datasets/ade20k_512.py",
    "_base_/schedules/160k.py",
    "_base_/runtime.py",
    "_base_/vision_branch.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        img_size=_base_.crop_size[0],
        drop_path_rate=0.5,
        with_cp=True,
        init_cfg=_base_.vision_branch,
    ),
    decode_head=dict(channels=1024, num_classes=150),
    auxiliary_head=dict(channels=256, num_classes=150),
    test_cfg=_base_.sliding_window,
)
optim_wrapper = dict(type="mmonepeace.BFloat16OptimWrapper")
