"""10 epochs of stage al, of 791 updates each: warm-up in the first, cosine to 1e-6, bfloat16."""

optim_wrapper = dict(
    type="mmonepeace.BFloat16OptimWrapper",
    optimizer=dict(
        type="AdamW", fused=True, lr=2e-4, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05
    ),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=1.0, preset="official-multimodal"),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.005, by_epoch=False, begin=0, end=792),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=791, end=7910),
]
train_cfg = dict(type="mmonepeace.EndlessTrainLoop", max_iters=7910, val_interval=791)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
