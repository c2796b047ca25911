"""Initial weights."""

from torch import Tensor, nn


def reset_weight(parameter: Tensor, std: float) -> None:
    """Draw a parameter from the official initial distribution: a normal truncated at one std."""
    nn.init.trunc_normal_(parameter, std=std, a=-std, b=std)
