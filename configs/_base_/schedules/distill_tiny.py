"""A short distillation on a CPU."""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(
        type="AdamW", fused=True, lr=2e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05
    ),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=1.0),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=1000),
]
train_cfg = dict(type="mmonepeace.EndlessTrainLoop", max_iters=1000)
