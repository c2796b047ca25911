"""Attention on GPUs whose bias of all pairs of tokens exists only while it is used.

PyTorch's memory-efficient kernel reads the bias from memory and keeps it for the backward pass, which
writes a gradient of each pair, head and sample: 0.5 GB for each block, and 0.5 GB for each sample, of the
giant at 896 px. Here the bias is gathered anew, with minus infinity for padding, and its gradient is added
up, for some samples at a time.

Shapes: B batch, L tokens, H heads, d width of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.relative_position_bias import (
    AttentionBias,
    GridBias,
    PaddedBias,
    sums_over_offsets,
)

_KERNEL = torch.ops.aten._scaled_dot_product_efficient_attention
_BACKWARD_KERNEL = torch.ops.aten._scaled_dot_product_efficient_attention_backward
# The meta device has the shapes of both kernels, so that tests need no GPU.
DEVICES = ("cuda", "meta")
SAMPLE_BYTES = 2**28  # of the bias, or of its gradient, of the samples that are computed at a time


def is_recomputable(bias: AttentionBias) -> bool:
    """Whether `recomputed_bias_attention` takes it: of a grid, or padded and else the same for all samples."""
    if isinstance(bias, PaddedBias):
        bias = bias.bias
        return bias.grid is not None or bias.is_shared
    return bias.grid is not None


def recomputed_bias_attention(
    q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, bias: AttentionBias, scale: float | None = None
) -> Tensor:
    """softmax(scale * q k^T + bias) v, (B, H, L, d); differentiable once, the bias included."""
    pad_BL = bias.pad_BL if isinstance(bias, PaddedBias) else None
    bias = bias.bias if isinstance(bias, PaddedBias) else bias
    source = bias.dense() if bias.grid is None else bias.table_NH
    grid = None if bias.grid is None else (bias.grid, bias.cls_token)
    return _RecomputedBiasAttention.apply(q_BHLd, k_BHLd, v_BHLd, source, pad_BL, grid, scale)


class _RecomputedBiasAttention(torch.autograd.Function):
    """The source of the bias is its table, or its values for all pairs, (1, H, L, L)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        source: Tensor,
        pad_BL: Tensor | None,
        grid: Any,
        scale: float | None,
    ) -> Tensor:
        dense = _dense(source, grid)
        # Without padding nothing is copied for each sample.
        count = len(q) if pad_BL is None else _samples_at_a_time(q)
        found = []
        for qkv, pad in _parts(count, (q, k, v), pad_BL):
            bias = _for_samples(dense, len(qkv[0]), pad)
            found.append(_KERNEL(*qkv, bias, True, scale=scale))
        out, sums, seeds, offsets = zip(*found, strict=True)
        joined = torch.cat(out), torch.cat(sums)
        # Without dropout, any state of random numbers will do.
        ctx.save_for_backward(q, k, v, *joined, source, pad_BL, seeds[0], offsets[0])
        ctx.options = grid, scale
        return joined[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLd: Tensor) -> tuple[Tensor | None, ...]:
        *per_sample, source, pad_BL, seed, offset = ctx.saved_tensors
        grid, scale = ctx.options
        trained = ctx.needs_input_grad[:4]
        dense, found, dsource = _dense(source, grid), [], None
        inputs = gradient_BHLd, *per_sample
        for part, pad in _parts(_samples_at_a_time(gradient_BHLd), inputs, pad_BL):
            gradient, *qkv, out, sums = part
            bias = _for_samples(dense, len(gradient), pad)
            *grads, dbias = _BACKWARD_KERNEL(
                gradient, *qkv, bias, out, sums, seed, offset, 0.0, trained, scale=scale
            )
            found.append(grads)
            if trained[3]:
                pairs = dbias.sum(0)
                added = sums_over_offsets(pairs, *grid) if grid else pairs[None].to(sums.dtype)
                dsource = added if dsource is None else dsource + added
        columns = zip(zip(*found, strict=True), trained[:3], strict=True)
        dq, dk, dv = (torch.cat(parts) if wanted else None for parts, wanted in columns)
        dsource = None if dsource is None else dsource.to(source.dtype)
        return dq, dk, dv, dsource, None, None, None


def _dense(source: Tensor, grid: Any) -> Tensor:
    return GridBias(source, *grid).dense() if grid else source


def _samples_at_a_time(x_BHLd: Tensor) -> int:
    _, heads, length, _ = x_BHLd.shape
    return max(1, SAMPLE_BYTES // (heads * length**2 * x_BHLd.element_size()))


def _parts(count: int, tensors: Any, pad_BL: Tensor | None) -> Iterator[tuple[Any, Tensor | None]]:
    """Some samples of each tensor, and their padding."""
    split = [x.split(count) for x in tensors]
    pads = [None] * len(split[0]) if pad_BL is None else pad_BL.split(count)
    return zip(zip(*split, strict=True), pads, strict=True)


def _for_samples(dense_1HLL: Tensor, count: int, pad_BL: Tensor | None) -> Tensor:
    """The bias of some samples: a copy for each of them only where they are padded."""
    if pad_BL is None:
        return dense_1HLL.expand(count, -1, -1, -1)
    _, heads, length, _ = dense_1HLL.shape
    # In rows that begin at multiples of 8 numbers, or the kernel copies them once more.
    space = dense_1HLL.new_empty(count, heads, length, length + -length % 8)[..., :length]
    return space.copy_(dense_1HLL).masked_fill_(pad_BL[:, None, None, :], -torch.inf)
