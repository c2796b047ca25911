"""Tokens: what a modality adapter gives to the encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Tokens:
    """A batch of sequences, CLS first, with the means to bias attention between their tokens.

    Attributes:
        x_BLD: embeddings with positions added.
        lengths: modality -> number of its tokens, in the order they stand in the sequence.
        bias: (index of a block, dtype) -> (1 or B, H, L, L) additive attention bias, or None.
        shared_bias: True if `bias` is the same for all blocks, so that it is asked for once.
    """

    x_BLD: Tensor
    lengths: dict[str, int]
    bias: Callable[[int, torch.dtype], Tensor] | None = None
    shared_bias: bool = False
