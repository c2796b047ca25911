"""A head over joint encodings; sizes, modalities, classes and loss are the recipe's."""

# The last block and the final norms of what is not pooled get no gradient.
find_unused_parameters = True
model = dict(
    type="mmonepeace.OnePeaceClassifier",
    backbone=dict(
        type="mmonepeace.OnePeace",
        modalities={},
        rpb="per_block",
        final_norm=True,
        with_cp=True,
    ),
    head=dict(attn_pooling=True, hidden_ratio=2),
)
