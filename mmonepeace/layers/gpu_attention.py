"""Attention on GPUs whose bias of all pairs of tokens exists only while it is used.

PyTorch's memory-efficient kernel reads the bias from memory and keeps it for the backward pass, which
writes a gradient of each pair, head and sample: 0.5 GB for each block, and 0.5 GB for each sample, of the
giant at 896 px. Here the bias is gathered anew, and its gradient is added up for some samples at a time.

Shapes: B batch, L tokens, H heads, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.relative_position_bias import AttentionBias, GridBias, sums_over_offsets

_KERNEL = torch.ops.aten._scaled_dot_product_efficient_attention
_BACKWARD_KERNEL = torch.ops.aten._scaled_dot_product_efficient_attention_backward
# The meta device has the shapes of both kernels, so that tests need no GPU.
DEVICES = ("cuda", "meta")
GRADIENT_BYTES = 2**28  # of the bias of some samples


def recomputed_bias_attention(
    q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, bias: AttentionBias, scale: float | None = None
) -> Tensor:
    """softmax(scale * q k^T + bias) v, (B, H, L, d), for a bias with a grid; differentiable once."""
    return _RecomputedBiasAttention.apply(
        q_BHLd, k_BHLd, v_BHLd, bias.table_NH, bias.grid, bias.cls_token, scale
    )


class _RecomputedBiasAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        table_NH: Tensor,
        *options: Any,
    ) -> Tensor:
        *grid, scale = options
        out, *state = _KERNEL(q, k, v, _expanded(GridBias(table_NH, *grid), q), True, scale=scale)
        ctx.save_for_backward(q, k, v, table_NH, out, *state)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLd: Tensor) -> tuple[Tensor | None, ...]:
        *per_sample, table_NH, out, sums, seed, offset = ctx.saved_tensors
        *grid, scale = ctx.options
        trained = ctx.needs_input_grad[:4]
        bias = GridBias(table_NH, *grid)
        inputs = gradient_BHLd, *per_sample, out, sums
        _, heads, length, _ = gradient_BHLd.shape
        size = heads * length**2 * gradient_BHLd.element_size()
        parts = (x.split(max(1, GRADIENT_BYTES // size)) for x in inputs)
        found, dtable = [], None
        for part in zip(*parts, strict=True):
            gradient, *qkv, out, sums = part
            state = _expanded(bias, gradient), out, sums, seed, offset
            *grads, dbias = _BACKWARD_KERNEL(gradient, *qkv, *state, 0.0, trained, scale=scale)
            found.append(grads)
            if trained[3]:
                added = sums_over_offsets(dbias.sum(0), *grid)
                dtable = added if dtable is None else dtable + added
        if dtable is not None:
            dtable = dtable.to(table_NH.dtype)
        columns = zip(zip(*found, strict=True), trained[:3], strict=True)
        dq, dk, dv = (torch.cat(parts) if wanted else None for parts, wanted in columns)
        return dq, dk, dv, dtable, None, None, None


def _expanded(bias: GridBias, q_BHLd: Tensor) -> Tensor:
    """The bias of all pairs for each sample, in one copy."""
    return bias.dense().expand(len(q_BHLd), -1, -1, -1)
