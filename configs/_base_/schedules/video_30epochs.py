"""AdamW in bfloat16 for adapters in a frozen encoder: 3 epochs of warm-up, then cosine to 0.

As officially, the backbone has a tenth of the learning rate but for its norm, which does not decay;
adapters and positions in time do.
"""

optim_wrapper = dict(
    type="mmonepeace.BFloat16OptimWrapper",
    optimizer=dict(type="AdamW", fused=True, lr=3e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(
        decay_rate=1.0,
        preset="official-video",
        factors={"backbone.": 0.1, "backbone.norms.": 1.0},
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, begin=0, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, begin=3, end=30, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=30, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
