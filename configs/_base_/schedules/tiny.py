"""Short training from scratch on a CPU: cosine, no layer-wise decay."""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", fused=True, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=1.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=600),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=600, val_interval=300)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
