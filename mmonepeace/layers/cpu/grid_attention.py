"""Exact attention whose bias depends on offsets in a grid, without any L x L matrix.

For a grid of R x C patches the bias of one head is a table T[y - y' + R - 1, x - x' + C - 1] for the
query at (y, x) and the key at (y', x'). With the keys in reversed order, y" = R - 1 - y' and
x" = C - 1 - x', that is T[y + y", x + x"], and all keys of one query lie in one stretch of

    E[x, s, x"] = T[s, x + x"],   s = y + y",

which has 2 / R times the size of the bias. So the bias of whole rows of queries is a strided view of
E, and its gradient is added to E in unfolded_rows of whole rows: nothing is gathered or scattered over
pairs of tokens. Queries are done in blocks that fit into the cache; the backward pass makes the
weights of a block anew from the sums of their rows. Logits are to the base of 2, whose powers are
faster than those of e; keys are padded to whole cache lines, with weights of zero.

Shapes: B batch, L tokens (CLS first, if there is one; last among reversed ones), H heads, d width of
a head, n queries of a block, R x C the grid.
"""

import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.relative_position_bias import GridBias

_BLOCK_NUMBERS = 5 << 18  # logits in a block: few enough for the cache, many enough for one call
_LN_2 = math.log(2)

# Results of the block that is being computed, and those of its first computation.
_kept: ContextVar[tuple[list, Iterator | None]] = ContextVar("_kept")


class AttentionResultCache:
    """Context for blocks that are computed twice or more: their attention is computed once.

    Args:
        results: outputs and sums of rows, in the order of the calls.
        again: take them from there; otherwise, put them there.
    """

    def __init__(self, results: list[tuple[Tensor, Tensor]], again: bool) -> None:
        self.results, self.again = results, again

    def __enter__(self) -> None:
        self.token = _kept.set((self.results, iter(self.results) if self.again else None))

    def __exit__(self, *_: object) -> None:
        _kept.reset(self.token)


def grid_bias_attention(
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
    padding = (0, 0, 0, row_length(k_BHLd.shape[2]) - k_BHLd.shape[2])
    return _OffsetAttention.apply(
        q_BHLd,
        F.pad((k_BHLd * (scale / _LN_2)).flip(2), padding),
        F.pad(v_BHLd.flip(2), padding),
        bias.unfolded_rows(),
        bias.edges(),
    )


def row_length(numbers: int) -> int:
    """Length of rows that matrix products like: whole cache lines, but not many to the same set."""
    length = math.ceil(numbers / 16) * 16
    return length + 16 if length % 256 == 0 else length


class _Rows(NamedTuple):
    """Rows of queries that are done at once; CLS comes with the first."""

    first: int
    last: int
    tokens: slice
    patches: slice  # of these tokens


class _Grid:
    """The bias in the form that blocks are made from, and what is done at once.

    Args:
        stretches_HCAC: see `GridBias.unfolded_rows`.
        edges_3H: see `GridBias.edges`.
        batch: samples.
    """

    def __init__(self, stretches_HCAC: Tensor, edges_3H: Tensor | None, batch: int) -> None:
        self.unfolded_rows, self.edges = stretches_HCAC, edges_3H
        self.columns = stretches_HCAC.shape[1]
        self.rows = (stretches_HCAC.shape[2] + 1) // 2
        self.patches = self.rows * self.columns
        cls, heads = int(edges_3H is not None), len(stretches_HCAC)
        self.tokens = self.patches + cls
        together = 1 if batch > 1 else 2  # matrix products run in parallel over heads or samples
        self.heads = [slice(i, min(i + together, heads)) for i in range(0, heads, together)]
        self.products = max(batch, min(together, heads))
        self.keys = row_length(self.tokens)
        most = max(1, _BLOCK_NUMBERS // (self.products * self.columns * self.keys))
        self.most_rows = math.ceil(self.rows / math.ceil(self.rows / most))
        self.blocks = []
        for first in range(0, self.rows, self.most_rows):
            last = min(first + self.most_rows, self.rows)
            start = cls + first * self.columns if first else 0
            tokens = slice(start, cls + last * self.columns)
            patches = slice(0 if first else cls, tokens.stop - start)
            self.blocks.append(_Rows(first, last, tokens, patches))

    def are_small(self, q_BHLd: Tensor, k_BHLd: Tensor) -> bool:
        """Whether powers of 2 of all logits, and sums of a row, are far from the ends of the dtype."""
        q, k = (x.norm(dim=-1).amax() for x in (q_BHLd, k_BHLd))
        biases = (x for x in (self.unfolded_rows, self.edges) if x is not None)
        largest = q * k + max(torch.stack(x.aminmax()).abs().amax() for x in biases)
        return largest.item() <= self.limit(q_BHLd.dtype)

    def limit(self, dtype: torch.dtype) -> float:
        """For `are_small`; nothing is in float16."""
        return math.log2(torch.finfo(dtype).max) / 2 - math.log2(self.keys)

    def space(self, like: Tensor) -> Tensor:
        """Memory for the logits of any block; the first is the largest."""
        return like.new_empty(self.products * self.blocks[0].tokens.stop * self.keys)

    def skewed_space(self, like: Tensor) -> Tensor:
        """The same, with zeros behind each query's logits: what `add_gradient` works on."""
        zeros = (self.most_rows - 1) * self.columns
        length = row_length(max(self.keys, self.patches + zeros))
        return like.new_zeros(self.products, self.blocks[0].tokens.stop, length)

    def logits(
        self,
        heads: slice,
        rows: _Rows,
        q_HnD: Tensor,
        k_HLd: Tensor,
        sums: Tensor,
        space: Tensor,
    ) -> Tensor:
        """Logits of a block less the logarithms of the sums of rows, in some memory."""
        shape = (*q_HnD.shape[:2], k_HLd.shape[1])
        logits = space[: math.prod(shape)].view(shape)
        part = self.unfolded_rows[heads]
        per_head, per_column, per_row, _ = part.stride()
        bias = part.as_strided(
            (len(part), rows.last - rows.first, self.columns, self.patches),
            (per_head, per_row, per_column, 1),
            part.storage_offset() + rows.first * per_row,
        )
        inner = logits[:, rows.patches, : self.patches].unflatten(1, (-1, self.columns))
        torch.sub(bias, sums[:, rows.patches].unflatten(1, (-1, self.columns)), out=inner)
        logits[:, :, self.tokens :] = -math.inf
        if self.edges is not None:
            query, key, both = self.edges[:, heads, None]
            logits[:, rows.patches, self.patches] = key - sums[:, rows.patches, 0]
            if not rows.first:
                logits[:, 0, : self.patches] = query - sums[:, 0]
                logits[:, 0, self.patches] = both[:, 0] - sums[:, 0, 0]
        return logits.baddbmm_(q_HnD, k_HLd.mT)

    def add_gradient(self, heads: slice, rows: _Rows, wide_HnW: Tensor) -> None:
        """Add the gradient of a block's logits where the bias lies.

        Args:
            heads: of the block.
            rows: of the block.
            wide_HnW: in `skewed_space`; that of CLS as key is lost.
        """
        wide = wide_HnW
        if len(wide) > heads.stop - heads.start:
            wide = wide.sum(0, keepdim=True)
        if self.edges is not None:
            query, key, both = self.edges[:, heads]
            of_cls = wide[:, :, self.patches]
            key += of_cls[:, rows.patches].sum(1)
            if not rows.first:
                query += wide[:, 0, : self.patches].sum(1)
                both += of_cls[:, 0]
            of_cls.zero_()
        # A view in which the keys of each query begin where its stretch does, with zeros around.
        per_head, per_token, _ = wide.stride()
        count = rows.last - rows.first
        length = self.rows + count - 1
        skewed = wide.as_strided(
            (len(wide), self.columns, count, length * self.columns),
            (per_head, per_token, self.columns * (per_token - 1), 1),
            wide.storage_offset() + rows.patches.start * per_token,
        )
        part = self.unfolded_rows[heads, :, rows.first : rows.first + length]
        part.flatten(2).add_(skewed.sum(2))


class _OffsetAttention(torch.autograd.Function):
    """Queries in order, keys and values reversed, logits to the base of 2."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHLd: Tensor,
        k_BHLd: Tensor,
        v_BHLd: Tensor,
        unfolded_rows: Tensor,
        edges: Tensor | None,
    ) -> Tensor:
        q, k, v = q_BHLd, k_BHLd.contiguous(), v_BHLd.contiguous()
        results, known = _kept.get(([], None))
        if known:
            out, sums = next(known)
        else:
            out, sums = _OffsetAttention.attend(q, k, v, unfolded_rows, edges)
            results.append((out.detach(), sums))
        ctx.save_for_backward(q, k, v, unfolded_rows, edges, out, sums)
        return out

    @staticmethod
    def attend(
        q: Tensor, k: Tensor, v: Tensor, unfolded_rows: Tensor, edges: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs, and the logarithms of the sums of rows."""
        batch, heads, length, _ = q.shape
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        sums = q.new_zeros(batch, heads, length, 1)
        grid = _Grid(unfolded_rows, edges, batch)
        space = grid.space(q)
        small = grid.are_small(q, k)
        for part in grid.heads:
            q_, k_, v_, out_, sums_ = _of_heads(part, q, k, v, out, sums)
            for rows in grid.blocks:
                none = sums_[:, rows.tokens]
                weights = grid.logits(part, rows, q_[:, rows.tokens], k_, none, space)
                top = 0
                if not small:
                    top = weights.amax(-1, keepdim=True)
                    weights.sub_(top)
                total = weights.exp2_().sum(-1, keepdim=True)
                out_[:, rows.tokens] = torch.bmm(weights, v_).div_(total)
                sums_[:, rows.tokens] = total.log2_().add_(top)
        return out, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLd: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, unfolded_rows, edges, out, sums = ctx.saved_tensors
        grid, grads = _Grid(unfolded_rows, edges, len(q)), None
        if ctx.needs_input_grad[3]:
            no_edges = None if edges is None else torch.zeros_like(edges)
            grads = _Grid(torch.zeros_like(unfolded_rows), no_edges, len(q))
        # The derivative of a power of 2 has a factor.
        minus_delta = (gradient_BHLd * out).sum(-1, keepdim=True).mul_(-_LN_2)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        space, skewed_space = grid.space(q), grid.skewed_space(q)
        for part in grid.heads:
            q_, dq_, dout_, delta_, sums_ = _of_heads(part, q, dq, gradient_BHLd, minus_delta, sums)
            k_, v_, dk_, dv_ = _of_heads(part, k, v, dk, dv)
            v_ = v_ * _LN_2
            for rows in grid.blocks:
                queries, dout = q_[:, rows.tokens], dout_[:, rows.tokens]
                weights = grid.logits(part, rows, queries, k_, sums_[:, rows.tokens], space).exp2_()
                dv_.baddbmm_(weights.mT, dout)
                wide = skewed_space[: len(q_), : weights.shape[1]]
                dlogits = wide[:, :, : grid.keys]
                torch.baddbmm(delta_[:, rows.tokens], dout, v_.mT, out=dlogits).mul_(weights)
                dq_[:, rows.tokens] = torch.bmm(dlogits, k_)
                dk_.baddbmm_(dlogits.mT, queries)
                if grads:
                    grads.add_gradient(part, rows, wide)
        return dq, dk, dv, grads and grads.unfolded_rows, grads and grads.edges


def _of_heads(heads: slice, *tensors_BHLd: Tensor) -> list[Tensor]:
    """(B, H, L, d) -> views (products, L, d) of one sample's heads, or of one head of each sample."""
    return [x[:, heads].flatten(0, 1) for x in tensors_BHLd]
