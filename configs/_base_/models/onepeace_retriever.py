"""Embeddings of two modalities in one space; sizes and modalities are the recipe's."""

model = dict(
    type="mmonepeace.OnePeaceRetriever",
    backbone=dict(
        type="mmonepeace.OnePeace",
        modalities=dict(text={}),
        rpb="per_block",
        final_norm=True,
        with_cp=True,
    ),
)
