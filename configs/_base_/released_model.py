"""The released model of all modalities as pretrained weights, and its tokenizer."""

needs_weights = (
    "one-peace.pt, the model that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace'), in checkpoints/"
)
released_model = dict(type="Pretrained", checkpoint="checkpoints/one-peace.pt")
needs_tokenizer = "that of the released models: mmonepeace convert-tokenizer"
