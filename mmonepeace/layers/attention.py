"""Attention: the one place that chooses a kernel.

Shapes: B batch, L tokens, D width, H heads, d = D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.offset_attention import offset_attention
from mmonepeace.layers.position import GridBias
from mmonepeace.layers.tokens import Ragged
from mmonepeace.spec import LAYER_NORM_EPS, Arch

AnyBias = Tensor | GridBias | Ragged | None
# Tokens from which blocks of weights are faster than whole ones (benchmarks/).
_LONG = 512


def is_eager_on_cpu(x: Tensor) -> bool:
    """Whether functions that work by pieces suit a tensor: in a graph they would be unrolled."""
    in_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == "cpu" and x.dtype == torch.float32 and not in_graph


def attend(
    q_BHLd: Tensor,
    k_BHLd: Tensor,
    v_BHLd: Tensor,
    bias: AnyBias,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v.

    Args:
        q_BHLd: queries.
        k_BHLd: keys.
        v_BHLd: values; they may have another width than queries and keys.
        bias: (1 or B, H, L, L), which broadcasts: nothing is copied per sample; or that of a
            grid; or of sequences without padding, B = 1; or None.
        scale: None: 1 / sqrt(d).

    Returns:
        (B, H, L, d).

    Long sequences with the bias of a grid go through `offset_attention` on the CPU, in float32.
    Otherwise PyTorch picks the kernel: flash on the CPU when the bias needs no gradient, the
    memory-efficient one on CUDA, plain matrix products otherwise.
    """
    if isinstance(bias, Ragged):
        sequences = zip(
            *(x.split(list(bias.counts), 2) for x in (q_BHLd, k_BHLd, v_BHLd)),
            bias.parts(),
            strict=True,
        )
        parts = [attend(*sequence, scale).transpose(1, 2) for sequence in sequences]
        return torch.cat(parts, 1).transpose(1, 2)
    if isinstance(bias, GridBias):
        if is_eager_on_cpu(q_BHLd) and q_BHLd.shape[2] >= _LONG:
            return offset_attention(q_BHLd, k_BHLd, v_BHLd, bias, scale)
        bias = bias.dense()
    width = v_BHLd.shape[-1]
    if q_BHLd.shape[-1] > width and q_BHLd.device.type == "cpu":
        # The kernel that holds no L x L weights takes equal widths only.
        v_BHLd = F.pad(v_BHLd, (0, q_BHLd.shape[-1] - width))
    out = F.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd, attn_mask=bias, scale=scale)
    return out[..., :width]


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

    def forward(self, x_BLD: Tensor, bias: AnyBias) -> Tensor:
        """(B, L, D) and (1 or B, H, L, L) -> (B, L, D)."""
        return self.finish(attend(*self.heads(x_BLD), bias))

    def heads(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, H, L, d) each."""
        heads = (self.num_heads, -1)
        return tuple(
            project(x_BLD).unflatten(-1, heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )

    def finish(self, x_BHLd: Tensor) -> Tensor:
        """What the heads found, (B, H, L, d), as (B, L, D)."""
        x = x_BHLd.transpose(1, 2)
        if self.head_scale is not None:
            x = x * self.head_scale[:, None]
        return self.out_proj(self.norm(x.flatten(2)))
