"""The released ONE-PEACE classifier on ImageNet-1K at 512 px with averaged weights, as in the paper.

Run:    tools/dist_train.sh configs/cls/onepeace-giant_imagenet-512-ema.py 64
Needs:  what onepeace-giant_imagenet-512.py needs; memory for a second copy of the weights in float32
Expect: not measured yet. Evaluation and checkpoints have the averages, which follow the weights by
        2e-4 at each step (decay 0.9998, table 15 of the paper)
"""

_base_ = ["./onepeace-giant_imagenet-512.py"]
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=2e-4)]
