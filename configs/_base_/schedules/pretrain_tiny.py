"""A short pretraining from scratch on a CPU."""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(
        type="AdamW", fused=True, lr=1.5e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05
    ),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=1.0, preset="official-multimodal"),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=51),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=300),
]
train_cfg = dict(type="mmonepeace.EndlessTrainLoop", max_iters=300, val_interval=150)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
