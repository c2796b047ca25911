"""Initial weights."""

from torch import Tensor, nn


def reset_weight(parameter: Tensor, std: float) -> None:
    """Draw from the official initial distribution, a normal truncated at one standard deviation.

    Args:
        parameter: changed in place.
        std: standard deviation before the truncation, which leaves 0.54 of it.
    """
    nn.init.trunc_normal_(parameter, std=std, a=-std, b=std)
