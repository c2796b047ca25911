"""Exact attention whose bias depends on offsets in a grid, without any L x L matrix.

For a grid of R x C patches the bias of one head is a table T[y - y' + R - 1, x - x' + C - 1] for the
query at (y, x) and the key at (y', x'). With the keys in reverse order, y" = R - 1 - y' and
x" = C - 1 - x', that is T[y + y", x + x"], and the keys of one query are contiguous in the unfolded
(Toeplitz) rows

    E[x, s, x"] = T[s, x + x"],   s = y + y",

which take 2 / R times the memory of the bias. So the bias of entire rows of queries is a strided view
of E, and its gradient is added to E in contiguous pieces: nothing is gathered or scattered over
pairs of tokens. Queries are processed in blocks that fit into the cache; the backward pass
recomputes the weights of a block from the log-sum-exp of its rows. Logits are in base 2, since exp2
is faster than exp; keys are padded to full cache lines, with zero weight.

In bfloat16, products and blocks are in bfloat16; sums over keys, gradients that add up over blocks and
those of the bias are in float32. A bfloat16 logit has 8 bits, so that its error grows with its size:
what is large is shifted row by row, such that the logits of keys with much weight are near zero. Rows
of the gradient are then scaled by what the shift leaves of the log-sum-exp.

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

from mmonepeace.layers.cpu.linear import row_length
from mmonepeace.layers.relative_position_bias import GridBias
from mmonepeace.layers.resampling import CLS_ROWS, Grid

_BLOCK_BYTES = 5 << 20  # of logits in a block: few enough for the cache, many enough for one call
_LN_2 = math.log(2)
_LARGE = 2  # logit from which its error in bfloat16 matters

# Results of the block being computed and, while it is recomputed, those of the first pass.
_kept: ContextVar[tuple[list[Any], Iterator[Any] | None]] = ContextVar("_kept")


class AttentionResultCache:
    """Context for activation-checkpointed blocks: their attention is computed only once.

    Args:
        results: what `_GridBiasAttention.attend` returns, in the order of the calls.
        recompute: read the results; otherwise, store them.
    """

    def __init__(self, results: list[tuple[Any, ...]], recompute: bool) -> None:
        self.results, self.recompute = results, recompute

    def __enter__(self) -> None:
        self.token = _kept.set((self.results, iter(self.results) if self.recompute else None))

    def __exit__(self, *_: object) -> None:
        _kept.reset(self.token)


def cached_attention_contexts() -> tuple[AttentionResultCache, AttentionResultCache]:
    """The `context_fn` of activation checkpointing: results are stored, then read."""
    results: list[tuple[Any, ...]] = []
    return AttentionResultCache(results, recompute=False), AttentionResultCache(results, True)


def grid_bias_attention(
    q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor, bias: GridBias, scale: float | None = None
) -> Tensor:
    """softmax(scale * q k^T + bias) v, (B, H, L, d) strided as (B, L, H, d).

    Differentiable once, the bias included. Values may differ in width from queries and keys;
    without a scale it is 1 / sqrt(d).
    """
    scale = q_BHLd.shape[-1] ** -0.5 if scale is None else scale
    table_NH = bias.table_NH.to(_dtype_of_sums(q_BHLd)) / _LN_2
    padding = (0, 0, 0, row_length(k_BHLd.shape[2]) - k_BHLd.shape[2])
    return _GridBiasAttention.apply(
        q_BHLd,
        F.pad((k_BHLd * (scale / _LN_2)).flip(2), padding),
        F.pad(v_BHLd.flip(2), padding),
        table_NH,
        bias.grid,
        bias.cls_token,
    )


def unfolded_rows(table_NH: Tensor, grid: Grid) -> Tensor:
    """E of the module's docstring for each head, (H, columns, 2 * rows - 1, columns)."""
    rows, columns = grid
    offsets = table_NH[:-CLS_ROWS].t().reshape(-1, 2 * rows - 1, 2 * columns - 1)
    return offsets.unfold(2, columns, 1).transpose(1, 2).contiguous()


def _bias_rows(
    table_NH: Tensor, grid: Grid, cls_token: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Unfolded rows and the bias of CLS, if there is one, in the dtype of logits."""
    table_NH = table_NH.to(dtype)
    return unfolded_rows(table_NH, grid), table_NH[-CLS_ROWS:] if cls_token else None


def _dtype_of_sums(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _row_shifts(q_BHLd: Tensor, k_BHKd: Tensor, most: float) -> Tensor | None:
    """(B, H, L, 1) about the logit of the keys that a query attends to, without their bias.

    Under weights of 2^x, logits x of a normal distribution have the mean m + ln(2) s^2, up to their
    maximum, about m + s sqrt(2 ln L). At most `most`, since others may be far from it. None if
    nothing is large, and in full precision.
    """
    if _dtype_of_sums(q_BHLd) == q_BHLd.dtype:
        return None
    length = q_BHLd.shape[2]
    mean_BH1d = k_BHKd.sum(2, keepdim=True) / length  # padded keys are zero
    second_BHdd = k_BHKd.mT @ (k_BHKd / length)
    mean, second = ((q_BHLd * x).sum(-1, True) for x in (mean_BH1d, q_BHLd @ second_BHdd))
    variance = (second.float() - mean.float().square()).clamp_(min=0)
    tilt = torch.minimum(variance * _LN_2, (variance * (2 * math.log(length))).sqrt())
    shift = (mean + tilt.to(mean.dtype)).clamp_(-most, most)
    return shift if shift.abs().amax() > _LARGE else None


def _row_sums(weights_HnL: Tensor) -> Tensor:
    """(H, n, 1), of half precision in float32."""
    dtype = _dtype_of_sums(weights_HnL)
    if dtype == weights_HnL.dtype:
        return weights_HnL.sum(-1, keepdim=True)
    # Several times as fast as a sum in another dtype; what is rounded are four parts.
    return weights_HnL.unflatten(-1, (4, -1)).sum(-1).to(dtype).sum(-1, keepdim=True)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the products of two batches of matrices, perhaps of lower precision than the total."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total.add_(torch.bmm(a, b))


class _Rows(NamedTuple):
    """Rows of queries that form a block; CLS belongs to the first."""

    first: int
    last: int
    tokens: slice
    patches: slice  # of these tokens


class _Grid:
    """The bias in the form that blocks are made from, and the division into blocks.

    Args:
        unfolded_HCAC: see `unfolded_rows`.
        cls_3H: bias of CLS as query, as key and with itself; None without CLS.
        batch: samples.
    """

    def __init__(self, unfolded_HCAC: Tensor, cls_3H: Tensor | None, batch: int) -> None:
        self.unfolded, self.cls = unfolded_HCAC, cls_3H
        self.columns = unfolded_HCAC.shape[1]
        self.rows = (unfolded_HCAC.shape[2] + 1) // 2
        self.patches = self.rows * self.columns
        num_cls, heads = int(cls_3H is not None), len(unfolded_HCAC)
        self.tokens = self.patches + num_cls
        together = 1 if batch > 1 else 2  # matrix products run in parallel over heads or samples
        self.heads = [slice(i, min(i + together, heads)) for i in range(0, heads, together)]
        self.products = max(batch, min(together, heads))
        self.keys = row_length(self.tokens)
        row = self.products * self.columns * self.keys * unfolded_HCAC.itemsize
        most = max(1, _BLOCK_BYTES // row)
        self.most_rows = math.ceil(self.rows / math.ceil(self.rows / most))
        self.blocks = []
        for first in range(0, self.rows, self.most_rows):
            last = min(first + self.most_rows, self.rows)
            start = num_cls + first * self.columns if first else 0
            tokens = slice(start, num_cls + last * self.columns)
            patches = slice(0 if first else num_cls, tokens.stop - start)
            self.blocks.append(_Rows(first, last, tokens, patches))

    def are_small(self, q_BHLd: Tensor, k_BHLd: Tensor) -> bool:
        """Whether exp2 of all logits, and its sum over a row, cannot overflow or underflow."""
        q, k = (x.norm(dim=-1).amax() for x in (q_BHLd, k_BHLd))
        biases = (x for x in (self.unfolded, self.cls) if x is not None)
        largest = q * k + max(torch.stack(x.aminmax()).abs().amax() for x in biases)
        return largest.item() <= self.limit(q_BHLd.dtype)

    def limit(self, dtype: torch.dtype) -> float:
        """Limit of `are_small`; in float16 nothing is below it."""
        return math.log2(torch.finfo(dtype).max) / 2 - math.log2(self.keys)

    def space(self, like: Tensor) -> Tensor:
        """Buffer for the logits of any block; the first block is the largest."""
        return like.new_empty(self.products * self.blocks[0].tokens.stop * self.keys)

    def skewed_space(self, like: Tensor) -> Tensor:
        """The same with zeros after each query's logits, for `add_gradient`."""
        zeros = (self.most_rows - 1) * self.columns
        length = row_length(max(self.keys, self.patches + zeros))
        return like.new_zeros(self.products, self.blocks[0].tokens.stop, length)

    def logits(
        self,
        heads: slice,
        rows: _Rows,
        q_HnD: Tensor,
        k_HLd: Tensor,
        shift: Tensor | None,
        space: Tensor,
    ) -> Tensor:
        """Logits of a block minus the shift of its rows, if there is one, written to a buffer."""
        shift = None if shift is None else shift[:, rows.tokens]
        shape = (*q_HnD.shape[:2], k_HLd.shape[1])
        logits = space[: math.prod(shape)].view(shape)
        part = self.unfolded[heads]
        per_head, per_column, per_row, _ = part.stride()
        bias = part.as_strided(
            (len(part), rows.last - rows.first, self.columns, self.patches),
            (per_head, per_row, per_column, 1),
            part.storage_offset() + rows.first * per_row,
        )
        inner = logits[:, rows.patches, : self.patches].unflatten(1, (-1, self.columns))
        logits[:, :, self.tokens :] = -math.inf
        if shift is None:
            inner.copy_(bias)
        else:
            torch.sub(bias, shift[:, rows.patches].unflatten(1, (-1, self.columns)), out=inner)
        if self.cls is not None:
            query, key, both = self.cls[:, heads, None]
            logits[:, rows.patches, self.patches] = key
            if not rows.first:
                logits[:, 0, : self.patches] = query
                logits[:, 0, self.patches] = both[:, 0]
            if shift is not None:
                logits[:, rows.patches, self.patches] -= shift[:, rows.patches, 0]
                if not rows.first:
                    logits[:, 0, : self.tokens] -= shift[:, 0]
        return logits.baddbmm_(q_HnD, k_HLd.mT)

    def add_gradient(self, heads: slice, rows: _Rows, wide_HnW: Tensor) -> None:
        """Add the gradient of a block's logits, in `skewed_space`, to that of the bias.

        Its column of CLS as key is zeroed.
        """
        wide = wide_HnW
        if len(wide) > heads.stop - heads.start:
            wide = wide.sum(0, keepdim=True)
        if self.cls is not None:
            query, key, both = self.cls[:, heads]
            of_cls = wide[:, :, self.patches]
            key += of_cls[:, rows.patches].sum(1, dtype=key.dtype)
            if not rows.first:
                query += wide[:, 0, : self.patches].sum(1, dtype=key.dtype)
                both += of_cls[:, 0]
            of_cls.zero_()
        # A view in which the keys of each query begin where its unfolded rows do, zeros around.
        per_head, per_token, _ = wide.stride()
        count = rows.last - rows.first
        length = self.rows + count - 1
        skewed = wide.as_strided(
            (len(wide), self.columns, count, length * self.columns),
            (per_head, per_token, self.columns * (per_token - 1), 1),
            wide.storage_offset() + rows.patches.start * per_token,
        )
        part = self.unfolded[heads, :, rows.first : rows.first + length]
        part.flatten(2).add_(skewed.sum(2))


class _GridBiasAttention(torch.autograd.Function):
    """Queries in order, keys and values reversed, logits in base 2."""

    @staticmethod
    def forward(
        ctx: Any,
        q_BHLd: Tensor,
        k_BHLd: Tensor,
        v_BHLd: Tensor,
        table_NH: Tensor,
        grid: Grid,
        cls_token: bool,
    ) -> Tensor:
        q, k, v = q_BHLd, k_BHLd.contiguous(), v_BHLd.contiguous()
        ctx.grid, ctx.cls_token = grid, cls_token
        results, known = _kept.get(([], None))
        if known:
            out, sums, shift = next(known)
        else:
            bias = _bias_rows(table_NH, grid, cls_token, q.dtype)
            out, sums, shift = _GridBiasAttention.attend(q, k, v, *bias)
            results.append((out.detach(), sums, shift))
        ctx.save_for_backward(q, k, v, table_NH, out, sums, shift)
        return out

    @staticmethod
    def attend(
        q: Tensor, k: Tensor, v: Tensor, unfolded: Tensor, cls: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Outputs, the log-sum-exps of rows, and the shifts of logits that lead to them."""
        batch, heads, length, _ = q.shape
        out = q.new_empty(batch, length, heads, v.shape[-1]).transpose(1, 2)
        sums = q.new_empty(batch, heads, length, 1, dtype=_dtype_of_sums(q))
        grid = _Grid(unfolded, cls, batch)
        space = grid.space(q)
        small = grid.are_small(q, k)
        # No power of 2 of a shifted logit leaves the range either.
        shift = _row_shifts(q, k, grid.limit(q.dtype) / 2 if small else math.inf)
        for part in grid.heads:
            q_, k_, v_, out_, sums_, shift_ = _of_heads(part, q, k, v, out, sums, shift)
            for rows in grid.blocks:
                weights = grid.logits(part, rows, q_[:, rows.tokens], k_, shift_, space)
                top = 0
                if not small:
                    top = weights.amax(-1, keepdim=True)
                    weights.sub_(top)
                total = _row_sums(weights.exp2_())
                out_[:, rows.tokens] = torch.bmm(weights, v_) / total
                sums_[:, rows.tokens] = total.log2_().add_(top)
        if shift is not None:
            sums += shift
        return out, sums, shift if small and sums.dtype != q.dtype else sums.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHLd: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table_NH, out, sums, shift = ctx.saved_tensors
        unfolded, cls = _bias_rows(table_NH, ctx.grid, ctx.cls_token, q.dtype)
        grid, grads = _Grid(unfolded, cls, len(q)), None
        if ctx.needs_input_grad[3]:
            no_cls = None if cls is None else torch.zeros_like(cls, dtype=sums.dtype)
            grads = _Grid(torch.zeros_like(unfolded, dtype=sums.dtype), no_cls, len(q))
        # The derivative of exp2 has a factor of ln 2.
        minus_delta = (gradient_BHLd * out.to(sums.dtype)).sum(-1, keepdim=True).mul_(-_LN_2)
        dout = gradient_BHLd
        is_half = sums.dtype != q.dtype
        if is_half:
            scale = (-sums if shift is None else shift - sums).exp2_()
            dout, minus_delta = scale * dout, scale * minus_delta
        dout, dweights, minus_delta = (x.to(q.dtype) for x in (dout, dout * _LN_2, minus_delta))
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros_like(x, dtype=sums.dtype) for x in (k, v))
        space, skewed_space = grid.space(q), grid.skewed_space(q)
        # Products of half precision copy what is not contiguous, each of them anew.
        own_space = grid.space(q) if is_half else None
        for part in grid.heads:
            q_, dq_, dout_, dweights_, delta_ = _of_heads(part, q, dq, dout, dweights, minus_delta)
            k_, v_, dk_, dv_, shift_ = _of_heads(part, k, v, dk, dv, shift)
            for rows in grid.blocks:
                queries = q_[:, rows.tokens]
                weights = grid.logits(part, rows, queries, k_, shift_, space).exp2_()
                _add_product(dv_, weights.mT, dout_[:, rows.tokens])
                wide = skewed_space[: len(q_), : weights.shape[1]]
                dlogits = in_wide = wide[:, :, : grid.keys]
                if own_space is not None:
                    dlogits = own_space[: weights.numel()].view_as(weights)
                torch.baddbmm(
                    delta_[:, rows.tokens], dweights_[:, rows.tokens], v_.mT, out=dlogits
                ).mul_(weights)
                dq_[:, rows.tokens] = torch.bmm(dlogits, k_)
                _add_product(dk_, dlogits.mT, queries)
                if grads:
                    if dlogits is not in_wide:
                        in_wide.copy_(dlogits)
                    grads.add_gradient(part, rows, wide)
        dtable = None if grads is None else _table_gradient(grads, table_NH)
        return dq, dk.to(k.dtype), dv.to(v.dtype), dtable, None, None


def _table_gradient(grads: "_Grid", table_NH: Tensor) -> Tensor:
    """The gradient of the table from that of unfolded rows and of the bias of CLS."""
    rows, columns = grads.rows, grads.columns
    offsets = torch.ops.aten.unfold_backward(
        grads.unfolded.transpose(1, 2),
        [len(grads.unfolded), 2 * rows - 1, 2 * columns - 1],
        2,
        columns,
        1,
    )
    out_NH = torch.zeros_like(table_NH, dtype=offsets.dtype)
    out_NH[:-CLS_ROWS] = offsets.flatten(1).t()
    if grads.cls is not None:
        out_NH[-CLS_ROWS:] = grads.cls
    return out_NH


def _of_heads(heads: slice, *tensors_BHLd: Tensor | None) -> list[Any]:
    """(B, H, L, d) -> views (products, L, d) of one sample's heads, or of one head of each sample."""
    return [None if x is None else x[:, heads].flatten(0, 1) for x in tensors_BHLd]
