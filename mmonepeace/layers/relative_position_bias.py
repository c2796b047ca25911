"""Relative position bias (RPB): the learned tables of a model and the resulting attention bias.

Shapes: B batch, N table rows, H heads, L tokens (CLS first). A grid is (rows, columns).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _disable_current_modes

from mmonepeace.layers.indices import index_for
from mmonepeace.layers.resampling import CLS_ROWS, Grid, Resampling, num_rpb_rows, resample_rpb
from mmonepeace.layers.tensor_cache import byte_bounded_lru_cache
from mmonepeace.layers.tracing import is_traced
from mmonepeace.spec import MAX_POSITIONS

_SKEWED_NUMBERS = 2**23  # in the copies that `sums_over_offsets` makes


class AttentionBias:
    """What is added to the attention logits of one block: the form that every kernel takes.

    Attributes:
        grid: rows and columns of the tokens after CLS, if the bias depends only on their
            offsets; kernels may then use its table, see `GridBias`. None: only `dense` is known.
        is_shared: whether it is the same for all samples.
        is_packed: whether it belongs to sequences that are concatenated along one batch item, see
            `packing`.
        is_grouped: whether `attend_groups` applies it, group by group, as that of packed sequences is.
    """

    grid: Grid | None
    table_NH: Tensor  # these two with a grid
    cls_token: bool
    is_shared = True
    is_packed = False
    is_grouped = False
    counts: Any  # these two if packed, see `PackedBias`
    segments: Callable[..., Any]
    attend_groups: Callable[..., Tensor]

    def dense(self) -> Tensor | None:
        """(1 or B, H, L, L), or None if there is no bias."""
        raise NotImplementedError

    def select(self, samples: Sequence[int]) -> "AttentionBias":
        """The bias of some samples, in ascending order; itself, if it is the same for all."""
        return self


@dataclass(frozen=True)
class DenseBias(AttentionBias):
    """A bias that is stored for each pair of tokens, or none.

    Attributes:
        values: (1 or B, H or 1, L or 1, L), which broadcasts; None: no bias.
    """

    values: Tensor | None = None
    grid = None

    @property
    def is_shared(self) -> bool:  # type: ignore[override]
        return self.values is None or len(self.values) == 1

    def dense(self) -> Tensor | None:
        return self.values

    def select(self, samples: Sequence[int]) -> "DenseBias":
        if self.values is None or self.is_shared:
            return self
        return DenseBias(self.values.index_select(0, index_for(self.values, samples)))


@dataclass(frozen=True)
class PaddedBias(AttentionBias):
    """A bias with minus infinity for padded keys, which are not copied for each sample before they are used.

    Attributes:
        bias: without padding.
        pad_BL: True where a token is padding.
    """

    bias: AttentionBias
    pad_BL: Tensor
    grid = None
    is_shared = False

    def dense(self) -> Tensor:
        values = self.bias.dense()
        assert values is not None
        return torch.where(self.pad_BL[:, None, None, :], -torch.inf, values)

    def select(self, samples: Sequence[int]) -> "PaddedBias":
        pad_BL = self.pad_BL.index_select(0, index_for(self.pad_BL, samples))
        return PaddedBias(self.bias.select(samples), pad_BL)


@dataclass(frozen=True)
class GridBias(AttentionBias):
    """Bias between the tokens of a grid or a sequence, stored as the table of their offsets.

    Attributes:
        table_NH: N = (2 * rows - 1) * (2 * columns - 1) + 3.
        grid: rows and columns; a sequence is one column.
        cls_token: whether CLS comes before the tokens of the grid.
    """

    table_NH: Tensor
    grid: Grid
    cls_token: bool

    def dense(self) -> Tensor:
        """(1, H, L, L): one copy that broadcasts over the batch."""
        table_NH, device = self.table_NH, self.table_NH.device
        trained = torch.is_grad_enabled() and table_NH.requires_grad
        # On a CPU the gradient of a gather is right, but for half precision.
        inexact = device.type != "cpu" or table_NH.dtype.itemsize < 4
        if trained and inexact and not is_traced():
            return _GatheredGridBias.apply(table_NH, self.grid, self.cls_token)
        # Kernels on GPUs read rows that begin at multiples of 8 numbers; they copy a bias that has others.
        index_LP = rpb_index(self.grid, device, self.cls_token, 1 if device.type == "cpu" else 8)
        bias_HLP = table_NH.t().index_select(1, index_LP.flatten()).view(-1, *index_LP.shape)
        return bias_HLP[None, ..., : index_LP.shape[0]]


class _GatheredGridBias(torch.autograd.Function):
    """Its gradient adds up the pairs of each offset in float32, in a fixed order.

    That of a gather adds them one by one in the dtype of attention: a bfloat16 sum does not change
    any more once it is 256 times as large as what is added.
    """

    @staticmethod
    def forward(ctx: Any, table_NH: Tensor, grid: Grid, cls_token: bool) -> Tensor:
        ctx.options = grid, cls_token, table_NH.dtype
        return GridBias(table_NH, grid, cls_token).dense()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_1HLL: Tensor) -> tuple[Tensor, None, None]:
        grid, cls_token, dtype = ctx.options
        return sums_over_offsets(gradient_1HLL[0], grid, cls_token).to(dtype), None, None


def sums_over_offsets(pairs_HLL: Tensor, grid: Grid, cls_token: bool) -> Tensor:
    """The sum of each table row's pairs of tokens, (N, H) of at least float32."""
    rows, columns = grid
    heads = len(pairs_HLL)
    dtype = torch.promote_types(pairs_HLL.dtype, torch.float32)
    out_NH = pairs_HLL.new_zeros(num_rpb_rows(grid), heads, dtype=dtype)
    if cls_token:
        out_NH[-3] = pairs_HLL[:, 0, 1:].sum(1, dtype=dtype)
        out_NH[-2] = pairs_HLL[:, 1:, 0].sum(1, dtype=dtype)
        out_NH[-1] = pairs_HLL[:, 0, 0]
        pairs_HLL = pairs_HLL[:, 1:, 1:]
    patches = rows * columns
    if not patches:
        return out_NH
    before = (rows - 1) * columns
    step = max(1, _SKEWED_NUMBERS // ((patches + 1) * (patches + before)))
    for start in range(0, heads, step):
        # With zeros before each query's keys, a view has one key offset in each column.
        wide = F.pad(pairs_HLL[start : start + step], (before, 0, 0, 1))
        per_head, per_query, _ = wide.stride()
        skewed = wide.as_strided(
            (len(wide), rows, columns, 2 * rows - 1, columns),
            (per_head, columns * (per_query + 1), per_query, columns, 1),
        )
        offsets = skewed.sum(1, dtype=dtype).flip(2, 3).transpose(1, 2)
        shape = [len(wide), 2 * rows - 1, 2 * columns - 1]
        sums = torch.ops.aten.unfold_backward(offsets, shape, 2, columns, 1)
        out_NH[:-CLS_ROWS, start : start + step] = sums.flatten(1).t()
    return out_NH


def _overwrite_cls(index: Tensor, rows: int) -> Tensor:
    """Point the row and column of CLS to the last three of `rows` table rows.

    The column overwrites the row, the corner overwrites both.
    """
    index[0, :] = rows - 3
    index[:, 0] = rows - 2
    index[0, 0] = rows - 1
    return index


# The map of 3,137 tokens (896 px) takes 39 MB and all blocks share it. Images of many sizes need a
# limit in bytes: maps differ in size by orders of magnitude.
@byte_bounded_lru_cache(2**28)
def rpb_index(
    grid: Grid,
    device: torch.device | str = "cpu",
    cls_token: bool = True,
    multiple: int = 1,
) -> Tensor:
    """Table row for each pair of tokens of a grid, CLS first.

    Returns:
        (L, P) int32 with L = rows * columns + 1, or one less without `cls_token`, and P the next
        `multiple` from L on; entry (p, q) serves query p and key q.

    Source: the index map of the BEiT family. The column of CLS overwrites its row, the corner
    overwrites both.
    """
    rows, cols = grid
    # Named device: the default one may be meta, where nothing is computed.
    y = torch.arange(rows, dtype=torch.int32, device=device)[:, None].expand(rows, cols).flatten()
    x = torch.arange(cols, dtype=torch.int32, device=device).expand(rows, cols).flatten()
    index = (y[:, None] - y + rows - 1) * (2 * cols - 1) + (x[:, None] - x + cols - 1)
    if cls_token:
        offsets = max(2 * rows - 1, 0) * max(2 * cols - 1, 0)
        index = _overwrite_cls(F.pad(index, (1, 0, 1, 0)), offsets + CLS_ROWS)
    return F.pad(index, (0, -index.shape[0] % multiple))


@byte_bounded_lru_cache(2**20)
def rpb_rows_1d(num_buckets: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Table row for each offset between the tokens of a sequence.

    Distances up to half of the buckets have a row each; longer ones share rows, logarithmically.

    Args:
        num_buckets: of one direction; the table has 2 * `num_buckets` + 2 rows.
        count: tokens of the sequence.
        device: where the rows are kept.

    Returns:
        (2 * count - 1,) int64; entry p - q + count - 1 serves query p and key q.

    Raises:
        ValueError: if the sequence is longer than the distances the buckets were made for.

    Source: the official 1-D bias of text and audio.
    """
    if count > MAX_POSITIONS:
        raise ValueError(
            f"a sequence of {count} tokens is longer than the {MAX_POSITIONS} positions (CLS "
            "included) that the relative position bias reaches. Cut it, or encode it in windows."
        )
    if isinstance(count, torch.SymInt):  # of a graph for all lengths: rows of a constant
        rows = _longest_rows_1d(num_buckets).to(device)
        return rows.narrow(0, MAX_POSITIONS - count, 2 * count - 1)
    # In NumPy: a graph takes the numbers, not how they are made.
    exact = num_buckets // 2
    distance = np.arange(count, dtype=np.float64)
    spread = np.log((distance / exact).clip(min=1)) / math.log((MAX_POSITIONS - 1) / exact)
    far = exact + np.ceil(spread * (exact - 1))
    value = np.where(distance <= exact, distance, far).astype(np.int64)
    rows = np.concatenate([-value[::-1], value[1:]]) + num_buckets - 1
    return torch.from_numpy(rows).to(device)


@cache
def _longest_rows_1d(num_buckets: int) -> Tensor:
    with _disable_current_modes():  # real numbers, whatever is being traced
        return rpb_rows_1d(num_buckets, MAX_POSITIONS)


@byte_bounded_lru_cache(2**25)
def rpb_index_1d(num_buckets: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """Table row for each pair of tokens of a sequence, (L, L) int32, CLS first.

    Args and errors are those of `rpb_rows_1d`, but CLS counts into `length`.
    """
    position = torch.arange(length, device="cpu")
    offsets = position[:, None] - position + length - 1
    index = _overwrite_cls(rpb_rows_1d(num_buckets, length)[offsets], 2 * num_buckets + 2)
    return index.to(device=device, dtype=torch.int32)


class RelativePositionBias(nn.Module):
    """Learned bias between tokens: one table for all blocks, or one per block.

    `rows` has the rows of each table; a single one serves all blocks.
    """

    def __init__(self, rows: Sequence[int], num_heads: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList(
            nn.Parameter(torch.zeros(num_rows, num_heads)) for num_rows in rows
        )

    def decouple(self, depth: int) -> None:
        """Replace the shared table by a copy of it for each block."""
        (table,) = self.tables
        self.tables = nn.ParameterList(table.detach().clone() for _ in range(depth))


class RelativePositionBias1D(RelativePositionBias):
    """Bias between the tokens of a sequence.

    Args:
        num_buckets: see `rpb_rows_1d`.
        num_heads: attention heads.
        num_tables: 1 (shared) or the number of blocks.
    """

    def __init__(self, num_buckets: int, num_heads: int, num_tables: int) -> None:
        super().__init__([2 * num_buckets + 2] * num_tables, num_heads)
        self.num_buckets = num_buckets

    def forward(self, length: int, block: int, dtype: torch.dtype) -> GridBias:
        """Bias of one block for `length` tokens, CLS included, in the dtype that attention runs in.

        Raises:
            ValueError: if the sequence is longer than the bias reaches.
        """
        table_NH = self.tables[block if len(self.tables) > 1 else 0]
        # CLS counts for what the bias reaches; its own offsets are dropped.
        rows = rpb_rows_1d(self.num_buckets, length, table_NH.device)[1:-1]
        table_NH = torch.cat([table_NH[rows], table_NH[-CLS_ROWS:]])
        # Cast here, so that offsets that share a row add up their gradients in its own dtype.
        return GridBias(table_NH.to(dtype), (length - 1, 1), cls_token=True)


class RelativePositionBias2D(RelativePositionBias):
    """Bias between the patches of a grid.

    Args:
        sides: of the square grids that the tables are for, in patches; a single one serves all
            blocks.
        num_heads: attention heads.
        cls_token: whether CLS comes before the patches.
        resampling: for other grids, see `resample_rpb`.
    """

    def __init__(
        self,
        sides: Sequence[int],
        num_heads: int,
        cls_token: bool = True,
        resampling: Resampling = "geometric",
    ) -> None:
        super().__init__([num_rpb_rows((side, side)) for side in sides], num_heads)
        self.sides = sides
        self.cls_token = cls_token
        self.resampling = resampling

    def decouple(self, depth: int) -> None:
        """See `RelativePositionBias`."""
        super().decouple(depth)
        self.sides = [*self.sides] * depth

    def forward(self, grid: Grid, block: int, dtype: torch.dtype) -> GridBias:
        """Bias of one block for a grid of patches, resampled if need be, in the dtype of attention."""
        table = block if len(self.sides) > 1 else 0
        table_NH, side = self.tables[table], self.sides[table]
        # A graph for all sizes does not know this one.
        if isinstance(sum(grid), torch.SymInt) or grid != (side, side):
            table_NH = resample_rpb(table_NH, side, grid, self.resampling)
        return GridBias(table_NH.to(dtype), grid, self.cls_token)
