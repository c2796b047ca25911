"""Exact attention whose bias depends on offsets in a grid, without any L x L matrix.

For a grid of R x C patches the bias of one head is a table T[y - y' + R - 1, x - x' + C - 1] for the
query at (y, x) and the key at (y', x'). Flip the table on both axes, and all keys of one query lie in
one stretch of

    E[w, a, x'] = T_flipped[a, w + x'],   w = C - 1 - x,   a = R - 1 - y + y',

which has 2 / R times the size of the bias. So the bias of whole rows of queries, in reversed order,
is a strided view of E, and its gradient is added to E in stretches of whole rows: nothing is gathered
or scattered over pairs of tokens. Queries are done in blocks that fit into the cache; the backward
pass makes the weights of a block anew from the sums of their rows.

Shapes: B batch, L tokens (CLS first, if there is one), H heads, d width of a head, n queries of a
block, R x C the grid.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.position import GridBias

_BLOCK_NUMBERS = 1 << 19  # logits in a block: what a core's share of the cache holds


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
        (B, H, L, d).
    """
    scale = q_BHLd.shape[-1] ** -0.5 if scale is None else scale
    return _OffsetAttention.apply(q_BHLd, k_BHLd, v_BHLd, bias.stretches(), bias.edges(), scale)


class _Block(NamedTuple):
    """Heads and reversed rows of queries that are done at once; the last row comes with CLS."""

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
        """What is done at once, of about the same size each."""
        length = self.rows * self.columns + self.cls
        together = 1 if batch > 1 else 2  # matrix products run in parallel over heads and samples
        size = max(1, _BLOCK_NUMBERS // max(1, together * batch * self.columns * length))
        size = math.ceil(self.rows / math.ceil(self.rows / size))
        found = []
        for head in range(0, heads, together):
            chosen = slice(head, min(head + together, heads))
            for first in range(0, self.rows, size):
                last = min(first + size, self.rows)
                stop = length if last == self.rows else last * self.columns
                found.append(_Block(chosen, first, last, slice(first * self.columns, stop)))
        return found

    def rows_of(self, block: _Block) -> Tensor:
        """Bias between patches, (heads, rows, C, R * C), as a view."""
        part = self.stretches[block.heads]
        per_head, per_column, per_row, _ = part.stride()
        return part.as_strided(
            (len(part), block.last - block.first, self.columns, self.rows * self.columns),
            (per_head, per_row, per_column, 1),
            part.storage_offset() + block.first * per_row,
        )

    def logits(self, block: _Block, q_HBLd: Tensor, k_HBLd: Tensor, space: Tensor) -> Tensor:
        """Logits of a block in some memory: (heads * B, n, L)."""
        q = q_HBLd[block.heads, :, block.tokens]
        heads, batch, n, _ = q.shape
        length = k_HBLd.shape[2]
        patches = (block.last - block.first) * self.columns
        logits = space[: heads * batch * n * length].view(heads, batch, n, length)
        rows = logits[:, :, :patches, self.cls :].unflatten(2, (-1, self.columns))
        rows.copy_(self.rows_of(block)[:, None])
        if self.edges is not None:
            query, key, both = self.edges[:, block.heads, None, None]
            logits[:, :, :patches, 0] = key
            if n > patches:
                logits[:, :, -1] = query
                logits[:, :, -1, 0] = both[..., 0]
        logits = logits.flatten(0, 1)
        return logits.baddbmm_(q.flatten(0, 1), k_HBLd[block.heads].flatten(0, 1).mT)

    def add_gradient(self, block: _Block, gradient_HnL: Tensor) -> None:
        """Add the gradient of a block's logits, summed over samples, where the bias lies."""
        stretches = self.stretches[block.heads]
        patches = (block.last - block.first) * self.columns
        for i, row in enumerate(gradient_HnL[:, :patches, self.cls :].split(self.columns, 1)):
            start = block.first + i
            stretches[:, :, start : start + self.rows].flatten(2).add_(row)
        if self.edges is not None:
            query, key, both = self.edges[:, block.heads]
            key += gradient_HnL[:, :patches, 0].sum(1)
            if gradient_HnL.shape[1] > patches:
                query += gradient_HnL[:, -1, 1:].sum(1)
                both += gradient_HnL[:, -1, 0]


class _OffsetAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHLd: Tensor,
        k_BHLd: Tensor,
        v_BHLd: Tensor,
        stretches: Tensor,
        edges: Tensor | None,
        scale: float,
    ) -> Tensor:
        q = _reversed(q_BHLd * scale)
        k, v = (x.transpose(0, 1).contiguous() for x in (k_BHLd, v_BHLd))
        grid = _Grid(stretches, edges)
        out, sums = q.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3])
        batch = q.shape[1]
        blocks = grid.blocks(*q.shape[:2])
        space = _space(blocks[0], q)
        for block in blocks:
            weights = grid.logits(block, q, k, space)
            top = weights.amax(-1, keepdim=True)
            total = weights.sub_(top).exp_().sum(-1, keepdim=True)
            found = torch.bmm(weights, v[block.heads].flatten(0, 1)).div_(total)
            out[block.heads, :, block.tokens] = found.unflatten(0, (-1, batch))
            lse = top.add_(total.log_())[..., 0]
            sums[block.heads, :, block.tokens] = lse.unflatten(0, (-1, batch))
        ctx.save_for_backward(q, k, v, stretches, edges, out, sums)
        ctx.scale = scale
        return _reversed_back(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLd: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, stretches, edges, out, sums = ctx.saved_tensors
        grid = _Grid(stretches, edges)
        grads = None  # of the bias
        if ctx.needs_input_grad[3]:
            no_edges = None if edges is None else torch.zeros_like(edges)
            grads = _Grid(torch.zeros_like(stretches), no_edges)
        gradient = _reversed(gradient_BHLd)
        minus_delta = (gradient * out).sum(-1, keepdim=True).neg_()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        batch = q.shape[1]
        blocks = grid.blocks(*q.shape[:2])
        space, more = _space(blocks[0], q), _space(blocks[0], q)
        for block in blocks:
            q_, dout, delta, lse = (
                x[block.heads, :, block.tokens].flatten(0, 1)
                for x in (q, gradient, minus_delta, sums[..., None])
            )
            k_, v_, dk_, dv_ = (x[block.heads].flatten(0, 1) for x in (k, v, dk, dv))
            weights = grid.logits(block, q, k, space).sub_(lse).exp_()
            dv_.baddbmm_(weights.mT, dout)
            dlogits = more[: weights.numel()].view_as(weights)
            torch.baddbmm(delta, dout, v_.mT, out=dlogits)
            dlogits.mul_(weights)
            dq[block.heads, :, block.tokens] = torch.bmm(dlogits, k_).unflatten(0, (-1, batch))
            dk_.baddbmm_(dlogits.mT, q_)
            if grads:
                per_sample = dlogits.unflatten(0, (-1, batch))
                summed = per_sample.sum(1) if batch > 1 else per_sample[:, 0]
                grads.add_gradient(block, summed)
        return (
            _reversed_back(dq) * ctx.scale,
            dk.transpose(0, 1),
            dv.transpose(0, 1),
            grads and grads.stretches,
            grads and grads.edges,
            None,
        )


def _space(block: _Block, q_HBLd: Tensor) -> Tensor:
    """Memory for the logits of any block; the first one may lack CLS."""
    heads, batch, length = block.heads.stop - block.heads.start, *q_HBLd.shape[1:3]
    return q_HBLd.new_empty(heads * batch * (block.tokens.stop - block.tokens.start + 1) * length)


def _reversed(x_BHLd: Tensor) -> Tensor:
    """(B, H, L, d) -> (H, B, L, d) with the last token first."""
    return x_BHLd.transpose(0, 1).flip(2).contiguous()


def _reversed_back(x_HBLd: Tensor) -> Tensor:
    return x_HBLd.flip(2).transpose(0, 1)
