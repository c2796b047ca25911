"""Attention: the one place that chooses a kernel.

Shapes: B batch, L tokens, D width, H heads, d = D / H.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.cpu.grid_attention import grid_bias_attention
from mmonepeace.layers.cpu.packing import Ragged
from mmonepeace.layers.relative_position_bias import GridBias
from mmonepeace.layers.tokens import dense
from mmonepeace.spec import LAYER_NORM_EPS, Arch

AnyBias = Tensor | GridBias | Ragged | None
Backend = Literal["auto", "blocks", "sdpa", "flex", "xformers", "eager"]
# Tokens from which blocks of weights are faster than whole ones (benchmarks/): in inference, and
# where the bias is trained.
_LONG, _LONG_TRAINED = 512, 300


def use_cpu_kernels(x: Tensor) -> bool:
    """Whether functions that work by pieces suit a tensor: in a graph they would be unrolled."""
    in_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == "cpu" and x.dtype == torch.float32 and not in_graph


def attend(
    q_BHLd: Tensor,
    k_BHLd: Tensor,
    v_BHLd: Tensor,
    bias: AnyBias,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """softmax(scale * q k^T + bias) v.

    Args:
        q_BHLd: queries.
        k_BHLd: keys.
        v_BHLd: values; they may have another width than queries and keys.
        bias: (1 or B, H, L, L), which broadcasts: nothing is copied per sample; or that of a
            grid; or of sequences without padding, B = 1; or None.
        scale: None: 1 / sqrt(d).
        backend: what computes it; all give the same values and gradients.
            blocks: `grid_bias_attention` for the bias of a grid, without L x L weights in memory.
            sdpa: PyTorch picks the kernel: flash on the CPU when the bias needs no gradient, the
            memory-efficient one on CUDA, plain matrix products otherwise.
            flex: FlexAttention, compiled; on CPUs for inference alone. The bias of a grid is
            looked up pair by pair.
            xformers: its memory-efficient attention, on CUDA.
            eager: matrix products, all L x L weights in memory.
            auto: blocks for the bias of a grid on a CPU in float32 from 512 tokens on, from 300
            on if it needs a gradient; otherwise sdpa.

    Returns:
        (B, H, L, d).

    Raises:
        ValueError: if the backend is unknown or cannot be used here.
    """
    if isinstance(bias, Ragged):
        sizes = [sum(group.counts) for group in bias.groups]
        parts = zip(*(x.split(sizes, 2) for x in (q_BHLd, k_BHLd, v_BHLd)), strict=True)
        found = [
            group.collect(attend(*map(group.spread, part), group.bias, scale, backend))
            for group, part in zip(bias.groups, parts, strict=True)
        ]
        return torch.cat(found, 1).transpose(1, 2)
    if backend == "auto":
        backend = "blocks" if _suits_blocks(q_BHLd, bias) else "sdpa"
    return _BACKENDS[check_backend(backend)](q_BHLd, k_BHLd, v_BHLd, bias, scale)


def check_backend(name: str) -> str:
    """Name of a backend, if there is one.

    Raises:
        ValueError: if there is none, or its package is missing.
    """
    if name not in get_args(Backend):
        known = ", ".join(get_args(Backend))
        raise ValueError(f"attention backend {name!r} is unknown. Choose from {known}.")
    if name == "xformers" and not find_spec("xformers"):
        raise ValueError("attention backend 'xformers' needs xformers: pip install xformers.")
    return name


def _suits_blocks(q_BHLd: Tensor, bias: AnyBias) -> bool:
    if not isinstance(bias, GridBias) or not use_cpu_kernels(q_BHLd):
        return False
    trained = torch.is_grad_enabled() and bias.table_NH.requires_grad
    return q_BHLd.shape[2] >= (_LONG_TRAINED if trained else _LONG)


def _blocks(q: Tensor, k: Tensor, v: Tensor, bias: AnyBias, scale: float | None) -> Tensor:
    if isinstance(bias, GridBias) and 0 not in bias.grid:  # CLS alone has no offsets
        return grid_bias_attention(q, k, v, bias, scale)
    return _sdpa(q, k, v, bias, scale)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: AnyBias, scale: float | None) -> Tensor:
    width = v.shape[-1]
    if q.shape[-1] > width and q.device.type == "cpu":
        # The kernel that holds no L x L weights takes equal widths only.
        v = F.pad(v, (0, q.shape[-1] - width))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=dense(bias), scale=scale)
    return out[..., :width]


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: AnyBias, scale: float | None) -> Tensor:
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + dense(bias)
    return logits.softmax(-1) @ v


def _xformers(q: Tensor, k: Tensor, v: Tensor, bias: AnyBias, scale: float | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    bias = dense(bias)
    if bias is not None:
        # Kernels want a bias of each sample and head whose rows begin at multiples of 8.
        length = bias.shape[-1]
        bias = F.pad(bias, (0, -length % 8))[..., :length].expand(*q.shape[:2], -1, -1)
    inputs = (x.transpose(1, 2) for x in (q, k, v))
    return memory_efficient_attention(*inputs, attn_bias=bias, scale=scale).transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(q: Tensor, k: Tensor, v: Tensor, bias: AnyBias, scale: float | None) -> Tensor:
    if q.device.type == "cpu":
        if torch.is_grad_enabled() and q.requires_grad:
            raise ValueError("attention backend 'flex' has no gradients on CPUs. Choose 'auto'.")
        q, k, v = q.detach(), k.detach(), v.detach()  # it looks at them in no_grad too
    return _compiled_flex()(q, k, v, score_mod=_score_mod(bias), scale=scale)


def _score_mod(bias: AnyBias) -> Callable[..., Tensor] | None:
    """What FlexAttention does to the logit of query i and key j."""
    if isinstance(bias, Tensor):
        per_sample = len(bias) > 1
        return lambda score, b, h, i, j: score + bias[b if per_sample else 0, h, i, j]
    if bias is None:
        return None
    (rows, columns), table_NH, cls = bias.grid, bias.table_NH, int(bias.cls_token)
    n = len(table_NH)

    def add(score: Tensor, _: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        query, key = i - cls, j - cls
        y = query // columns - key // columns + rows - 1
        x = query % columns - key % columns + columns - 1
        row = y * (2 * columns - 1) + x
        if cls:
            row = torch.where(i == 0, n - 3, row)
            row = torch.where(j == 0, torch.where(i == 0, n - 1, n - 2), row)
        return score + table_NH[row, h]

    return add


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "blocks": _blocks,
    "sdpa": _sdpa,
    "flex": _flex,
    "xformers": _xformers,
    "eager": _eager,
}


class SelfAttention(nn.Module):
    """Multi-head self-attention with sub-LN; keys have no bias.

    Args:
        arch: widths and variants.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.num_heads = arch.num_heads
        self.backend: Backend = "auto"
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim)
        self.head_scale = nn.Parameter(torch.ones(arch.num_heads)) if arch.head_scale else None
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.sub_norm else nn.Identity()
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor, bias: AnyBias) -> Tensor:
        """(B, L, D) and (1 or B, H, L, L) -> (B, L, D)."""
        return self.finish(attend(*self.heads(x_BLD), bias, backend=self.backend))

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
