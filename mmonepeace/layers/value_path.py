"""The value path: a last block in which each token keeps its own value instead of what it attends to.

Models that are trained through CLS alone mix patches in their last block, so that a patch speaks of other
places too. With its own value it speaks of itself, and projections of CLS stay usable.

Shapes: B batch, L tokens, D width.

Source: the dense features of MaskCLIP (Zhou et al., 2022), here with the residual and the FFN kept.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mmonepeace.layers.encoder import FusionEncoder
from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.layers.tokens import Tokens


def encode_both_paths(layers: FusionEncoder, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Outputs (B, L, D) of the last block: as it is, and with each token's own value.

    The blocks before it run once.
    """

    def own_value(_block: int, dtype: torch.dtype) -> DenseBias:
        # Softmax over one key gives its value as it is, whatever query and key are.
        length, device = tokens.x_BLD.shape[1], tokens.x_BLD.device
        bias_LL = torch.full((length, length), -torch.inf, dtype=dtype, device=device)
        return DenseBias(bias_LL.fill_diagonal_(0)[None, None])

    last = len(layers) - 1
    run = layers.bind(tokens)
    x_BLD = run(tokens.x_BLD, 0, last)
    # Padding is a key of itself alone.
    own = replace(tokens, bias=own_value, shared_bias=False, pad_BL=None, cpu_pad_BL=None)
    return run(x_BLD, last, last + 1), layers.bind(own)(x_BLD, last, last + 1)
