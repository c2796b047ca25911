"""The box of what a phrase names; sizes are the recipe's."""

# The last block and the final norm of what is not pooled get no gradient.
find_unused_parameters = True
model = dict(
    type="mmonepeace.OnePeaceGrounder",
    backbone=dict(
        type="mmonepeace.OnePeace",
        modalities=dict(text={}, image={}),
        rpb="per_block",
        final_norm=True,
        with_cp=True,
    ),
    head=dict(attn_pooling=True, hidden_ratio=2),
    pool_over="image",
)
