"""A student that learns the features of a frozen teacher; sizes and the teacher are the recipe's."""

model = dict(
    type="mmonepeace.OnePeaceDistiller",
    backbone=dict(type="mmonepeace.OnePeace", rpb="shared", final_norm=True),
)
