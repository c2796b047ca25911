"""The released vision branch as pretrained weights of the backbone."""

needs_weights = (
    "one-peace-vision.pkl, the vision branch that the ONE-PEACE authors publish "
    "(github.com/OFA-Sys/ONE-PEACE, 'one_peace_vision'), in checkpoints/"
)
vision_branch = dict(type="Pretrained", checkpoint="checkpoints/one-peace-vision.pkl")
