"""The released vision branch (1.5 billion parameters) teaches a base encoder, on images without labels.

Run:    torchrun --nproc-per-node 8 -m mmonepeace distill \
            configs/distill/onepeace-base_giant_images.py --launcher pytorch --data-root DIR
Needs:  images of any sizes in DIR, in any subfolders, such as ImageNet-21K's; the vision branch; 8 GPUs
        with 128 images each
Expect: not measured yet. By mmonepeace estimate 34.3 GB on each GPU, 3.0 of them the teacher's in bfloat16,
        and 126 TFLOP a step
"""

_base_ = [
    "../_base_/models/onepeace_distiller.py",
    "../_base_/datasets/images_256.py",
    "../_base_/schedules/distill_125k.py",
    "../_base_/distill_runtime.py",
]
needs_teacher = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
model = dict(
    backbone=dict(arch="base", img_size=256, drop_path_rate=0.1, layer_scale_init=0.1),
    teacher=dict(
        type="mmonepeace.OnePeaceTeacher",
        checkpoint="checkpoints/one-peace-vision.pkl",
        backbone=dict(type="mmonepeace.OnePeace", arch="giant", img_size=256),
        dtype="bfloat16",
    ),
    data_preprocessor=dict(
        type="mmonepeace.MultimodalDataPreprocessor", augmentation=dict(flip=0.5)
    ),
)
