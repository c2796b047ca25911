"""Attention: the one place that chooses a kernel.

Shapes: B batch, L tokens, D width, H heads, d = D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.spec import LAYER_NORM_EPS, Arch


def attend(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q_BHLd: queries.
        k_BHLd: keys.
        v_BHLd: values.
        bias: (1 or B, H, L, L) or None. It broadcasts: nothing is copied per sample.

    Returns:
        (B, H, L, d).

    PyTorch picks the kernel: flash on the CPU when the bias needs no gradient, the
    memory-efficient one on CUDA, plain matrix products otherwise.
    """
    return F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention with sub-LN; keys have no bias.

    Args:
        arch: widths and variants.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.num_heads = arch.num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.head_scale = nn.Parameter(torch.ones(arch.num_heads)) if arch.head_scale else None
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.sub_norm else nn.Identity()
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor, bias: Tensor | None) -> Tensor:
        """(B, L, D) and (1 or B, H, L, L) -> (B, L, D)."""
        heads = (self.num_heads, -1)
        q, k, v = (
            project(x_BLD).unflatten(-1, heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = attend(q, k, v, bias).transpose(1, 2)
        if self.head_scale is not None:
            x = x * self.head_scale[:, None]
        return self.out_proj(self.norm(x.flatten(2)))
