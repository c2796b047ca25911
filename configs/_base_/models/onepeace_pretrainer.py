"""Encoder with final norms and the light decoder; sizes, stage and modalities are the recipe's."""

model = dict(
    type="mmonepeace.OnePeacePretrainer",
    backbone=dict(
        type="mmonepeace.OnePeace", rpb="shared", final_norm=True, drop_path_rate=0.4, with_cp=True
    ),
)
