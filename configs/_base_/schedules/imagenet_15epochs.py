"""15 epochs of AdamW with layer-wise learning rate decay, 3 of them warm-up, cosine to zero."""

optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    optimizer=dict(
        type="AdamW", fused=True, lr=3e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05
    ),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.9, preset="official-classification"),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, begin=0, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, begin=3, end=15, convert_to_iter_based=True),
]
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=15, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
