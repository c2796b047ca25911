"""Exact attention whose bias depends on offsets in a grid, without any L x L matrix.

For a grid of R x C patches the bias of one head is a table T[y - y' + R - 1, x - x' + C - 1] for the
query at (y, x) and the key at (y', x'). With the keys in reversed order, y" = R - 1 - y' and
x" = C - 1 - x', that is T[y + y", x + x"], and all keys of one query lie in one stretch of

    E[x, s, x"] = T[s, x + x"],   s = y + y",

which has 2 / R times the size of the bias. So the bias of whole rows of queries is a strided view of
E, and its gradient is added to E in stretches of whole rows: nothing is gathered or scattered over
pairs of tokens. Queries are done in blocks that fit into the cache; the backward pass makes the
weights of a block anew from the sums of their rows. Logits are to the base of 2, whose powers are
faster than those of e.

Shapes: B batch, L tokens (CLS first, if there is one; last among reversed ones), H heads, d width of
a head, h heads of a block, n its queries, R x C the grid.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.position import GridBias

_BLOCK_NUMBERS = 1 << 20  # logits in a block: few enough for the cache, many enough for one call
_LN_2 = math.log(2)


def offset_attention(
    q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, bias: GridBias, scale: float | None = None
) -> Tensor:
    """softmax(scale * q k^T + bias) v. Differentiable once, the bias included.

    Args:
        q_BHLd: queries.
        k_BHLd: keys.
        v_BHLd: values; they may have another width than queries and keys.
        bias: of the tokens' grid.
        scale: None: 1 / sqrt(d).

    Returns:
        (B, H, L, d), strided as (B, L, H, d).
    """
    scale = q_BHLd.shape[-1] ** -0.5 if scale is None else scale
    bias = bias._replace(table_NH=bias.table_NH / _LN_2)
    return _OffsetAttention.apply(
        q_BHLd,
        (k_BHLd * (scale / _LN_2)).flip(2),
        v_BHLd.flip(2),
        bias.stretches(),
        bias.edges(),
    )


class _Block(NamedTuple):
    """Heads and rows of queries that are done at once; CLS comes with the first row."""

    heads: slice
    first: int
    last: int
    tokens: slice


class _Grid:
    """The bias in the form that blocks are made from."""

    def __init__(self, stretches_HCAC: Tensor, edges_3H: Tensor | None) -> None:
        self.stretches, self.edges = stretches_HCAC, edges_3H
        self.columns = stretches_HCAC.shape[1]
        self.rows = (stretches_HCAC.shape[2] + 1) // 2
        self.cls = int(edges_3H is not None)

    def blocks(self, heads: int, batch: int) -> list[_Block]:
        """What is done at once, of about the same size each: several heads or several samples."""
        length = self.rows * self.columns + self.cls
        together = 1 if batch > 1 else 2  # matrix products run in parallel over heads and samples
        size = max(1, _BLOCK_NUMBERS // max(1, together * batch * self.columns * length))
        size = math.ceil(self.rows / math.ceil(self.rows / size))
        found = []
        for head in range(0, heads, together):
            chosen = slice(head, min(head + together, heads))
            for first in range(0, self.rows, size):
                last = min(first + size, self.rows)
                start = self.cls + first * self.columns if first else 0
                tokens = slice(start, self.cls + last * self.columns)
                found.append(_Block(chosen, first, last, tokens))
        return found

    def patches(self, block: _Block) -> slice:
        """The queries of a block that are not CLS."""
        return slice(0 if block.first else self.cls, None)

    def bias(self, block: _Block) -> Tensor:
        """Between patches, (h, rows, C, R * C), as a view."""
        part = self.stretches[block.heads]
        per_head, per_column, per_row, _ = part.stride()
        return part.as_strided(
            (len(part), block.last - block.first, self.columns, self.rows * self.columns),
            (per_head, per_row, per_column, 1),
            part.storage_offset() + block.first * per_row,
        )

    def logits(self, block: _Block, q_HnD: Tensor, k_HLd: Tensor, space: Tensor) -> Tensor:
        """Logits of a block in some memory, (B * h, n, L)."""
        shape = (*q_HnD.shape[:2], k_HLd.shape[1])
        logits, patches = space[: math.prod(shape)].view(shape), self.patches(block)
        inner = logits[:, patches, : self.rows * self.columns]
        inner.unflatten(1, (-1, self.columns)).copy_(self.bias(block))
        if self.edges is not None:
            query, key, both = self.edges[:, block.heads, None]
            logits[:, patches, -1] = key
            if not block.first:
                logits[:, 0, :-1] = query
                logits[:, 0, -1:] = both
        return logits.baddbmm_(q_HnD, k_HLd.mT)

    def add_gradient(self, block: _Block, gradient_hnL: Tensor) -> None:
        """Add the gradient of a block's logits, summed over samples, where the bias lies."""
        stretches, patches = self.stretches[block.heads], gradient_hnL[:, self.patches(block)]
        inner = patches[:, :, : self.rows * self.columns]
        for y, row in enumerate(inner.split(self.columns, 1), block.first):
            stretches[:, :, y : y + self.rows].flatten(2).add_(row)
        if self.edges is not None:
            query, key, both = self.edges[:, block.heads]
            key += patches[:, :, -1].sum(1)
            if not block.first:
                query += gradient_hnL[:, 0, :-1].sum(1)
                both += gradient_hnL[:, 0, -1]


class _OffsetAttention(torch.autograd.Function):
    """Queries in order, keys and values reversed, logits to the base of 2."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHLd: Tensor,
        k_BHLd: Tensor,
        v_BHLd: Tensor,
        stretches: Tensor,
        edges: Tensor | None,
    ) -> Tensor:
        q, k, v = q_BHLd, k_BHLd.contiguous(), v_BHLd.contiguous()
        batch, heads, length, _ = q.shape
        grid = _Grid(stretches, edges)
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        sums = q.new_empty(batch, heads, length, 1)
        blocks = grid.blocks(heads, batch)
        space = _space(blocks, q)
        for block in blocks:
            rows = (slice(None), block.heads, block.tokens)
            k_, v_ = (x[:, block.heads].flatten(0, 1) for x in (k, v))
            weights = grid.logits(block, q[rows].flatten(0, 1), k_, space)
            top = weights.amax(-1, keepdim=True)
            total = weights.sub_(top).exp2_().sum(-1, keepdim=True)
            found = torch.bmm(weights, v_).div_(total)
            out[rows] = found.unflatten(0, (batch, -1))
            sums[rows] = top.add_(total.log2_()).unflatten(0, (batch, -1))
        ctx.save_for_backward(q, k, v, stretches, edges, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLd: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, stretches, edges, out, sums = ctx.saved_tensors
        grid = _Grid(stretches, edges)
        grads = None  # of the bias
        if ctx.needs_input_grad[3]:
            no_edges = None if edges is None else torch.zeros_like(edges)
            grads = _Grid(torch.zeros_like(stretches), no_edges)
        # The derivative of a power of 2 has a factor.
        minus_delta = (gradient_BHLd * out).sum(-1, keepdim=True).mul_(-_LN_2)
        v_ln_2 = v * _LN_2
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        batch, heads = q.shape[:2]
        blocks = grid.blocks(heads, batch)
        space, more = _space(blocks, q), _space(blocks, q)
        for block in blocks:
            rows = (slice(None), block.heads, block.tokens)
            q_, dout, delta, lse = (
                x[rows].flatten(0, 1) for x in (q, gradient_BHLd, minus_delta, sums)
            )
            k_, v_, dk_, dv_ = (x[:, block.heads].flatten(0, 1) for x in (k, v_ln_2, dk, dv))
            weights = grid.logits(block, q_, k_, space).sub_(lse).exp2_()
            dv_.baddbmm_(weights.mT, dout)
            dlogits = more[: weights.numel()].view_as(weights)
            torch.baddbmm(delta, dout, v_.mT, out=dlogits)
            dlogits.mul_(weights)
            dq[rows] = torch.bmm(dlogits, k_).unflatten(0, (batch, -1))
            dk_.baddbmm_(dlogits.mT, q_)
            if grads:
                summed = dlogits.sum(0, keepdim=True) if batch > 1 else dlogits
                grads.add_gradient(block, summed)
        return dq, dk, dv, grads and grads.stretches, grads and grads.edges


def _space(blocks: list[_Block], q_BHLd: Tensor) -> Tensor:
    """Memory for the logits of any block; the first one is the largest."""
    batch, _, length, _ = q_BHLd.shape
    heads, tokens = blocks[0].heads, blocks[0].tokens
    return q_BHLd.new_empty(batch * (heads.stop - heads.start) * tokens.stop * length)
