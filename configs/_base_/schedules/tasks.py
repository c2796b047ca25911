"""AdamW with layer-wise decay in bfloat16, warm-up over a tenth of the epochs, then cosine.

Learning rates, decay and epochs are the recipe's. As officially, all rates begin and end at 1e-6
times the factor of their layer.
"""

optim_wrapper = dict(
    type="mmonepeace.BFloat16OptimWrapper",
    optimizer=dict(
        type="AdamW", fused=True, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05
    ),
    constructor="mmonepeace.LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_rate=0.9, preset="official-multimodal"),
)
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=10, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
