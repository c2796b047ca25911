"""Actions of Kinetics-400: adapters over time in the frozen vision branch, 16 frames.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_k400.py 64
Needs:  Kinetics-400 as tables; 64 GPUs, 1 video each, or others with the same product; PyAV; the
        released one-peace-vision.pkl in checkpoints/
Memory: not measured
Expect: top-1 of 88.0 and top-5 of 97.8 in the official table, with 3 clips x 3 crops; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_video_classifier.py",
    "../_base_/datasets/kinetics400_256.py",
    "../_base_/schedules/video_30epochs.py",
    "../_base_/tasks_runtime.py",
    "../_base_/vision_branch.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        num_frames=16,
        drop_path_rate=0.4,
        init_cfg=_base_.vision_branch,
    ),
    interval=8,
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor",
        augmentation=dict(hue=18, saturation=(0.6, 1.4), contrast=1.4, brightness=0.1),
    ),
)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
auto_scale_lr = dict(base_batch_size=64)
