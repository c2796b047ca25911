"""92,187 steps (50 epochs of COCO, 64 images a step) of AdamW, as the released detector."""

optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    optimizer=dict(type="AdamW", fused=True, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.9, preset="official-detection"),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type="MultiStepLR", milestones=[81944, 88773], gamma=0.1, by_epoch=False),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=92187, val_interval=5000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
