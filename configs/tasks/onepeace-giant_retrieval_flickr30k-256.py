"""Image-text retrieval on Flickr30K at 256 px, as in the released script.

Run:    tools/dist_train.sh configs/tasks/onepeace-giant_retrieval_flickr30k-256.py 8
Needs:  Flickr30K with Karpathy's splits as tables; 8 GPUs; the released one-peace.pt and its
        tokenizer in checkpoints/
Memory: a step of 2 holds 44.0 GB on each GPU, as mmonepeace estimate says; not measured
Expect: R@1 of 97.6 image to text and 89.6 text to image in the paper, at 432 px and batches of
        3,072; not measured here
"""

_base_ = [
    "../_base_/models/onepeace_retriever.py",
    "../_base_/datasets/flickr30k_retrieval_256.py",
    "../_base_/schedules/tasks.py",
    "../_base_/tasks_runtime.py",
    "../_base_/released_model.py",
]
model = dict(
    backbone=dict(
        arch="giant",
        modalities=dict(text={}, image=dict(img_size=256, rpb_sides=16)),
        drop_path_rate=0.4,
    ),
    init_cfg=_base_.released_model,
)
optim_wrapper = dict(optimizer=dict(lr=7e-05))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 7e-05, begin=0, end=2, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=1e-6 / 7e-05,
        begin=2,
        end=20,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=20)
default_hooks = dict(checkpoint=dict(save_best="retrieval/r_mean"))
auto_scale_lr = dict(base_batch_size=16)
