"""The released ONE-PEACE segmentor on ADE20K at 896 px for test-time augmentation, 40k steps.

Run:    tools/dist_train.sh configs/seg/onepeace-giant_vit-adapter_mask2former_ade20k-896-ms.py 16
Needs:  what onepeace-giant_vit-adapter_mask2former_ade20k-896.py needs
Memory: a step of 1 holds 39.1 GB on each GPU, as mmonepeace estimate says; not measured
Expect: with `mmonepeace test --tta` the official result is 62.98 mIoU; not measured here
"""

_base_ = ["./onepeace-giant_vit-adapter_mask2former_ade20k-896.py"]
optim_wrapper = dict(optimizer=dict(lr=2e-5))
