"""Resampling of positions and tables of relative position bias (RPB) to other grids.

Shapes: N table rows, H heads, D width. A grid is (rows, columns).
"""

import math
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mmonepeace.layers.tensor_cache import byte_bounded_lru_cache

Grid = tuple[int, int]
Resampling = Literal["geometric", "bicubic"]

# Of a grid, in patches, in graphs for all sizes: images of 2,048 pixels.
MAX_SYMBOLIC_SIDE = 128
# Rows after those of the offsets: CLS as query, CLS as key, CLS with itself.
CLS_ROWS = 3


def num_rpb_rows(grid: Grid) -> int:
    """Rows of a 2-D table: one per patch offset, and three for CLS."""
    return math.prod(max(2 * side - 1, 0) for side in grid) + CLS_ROWS


def square_side(count: int, what: str) -> int:
    """Side of the square grid of a table with `count` entries.

    Raises:
        ValueError: if `count` is not a square.
    """
    side = round(max(count, 0) ** 0.5)
    if side < 1 or side * side != count:
        raise ValueError(
            f"{what} has {count} entries besides CLS, which is not a square number. Only tables of square "
            "grids can be resampled: is this the checkpoint of another model?"
        )
    return side


def rpb_side(rows: int) -> int:
    """Side in patches of the grid that an RPB table with `rows` rows belongs to.

    Raises:
        ValueError: if no square grid has that many rows.
    """
    offsets = square_side(rows - CLS_ROWS, f"a relative position table of {rows} rows")
    if offsets % 2 == 0:
        raise ValueError(f"a relative position table of {rows} rows belongs to no square grid.")
    return (offsets + 1) // 2


def _geometric_coordinates(old: int, new: int) -> np.ndarray:
    """Source coordinates whose spacing grows geometrically until they span the new offsets.

    `old` and `new` count offsets, 2 * side - 1. Returns (old,) float64, symmetric about 0.
    """
    k, target = old // 2, new // 2
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**k) / (1 - ratio) > target:
            high = ratio
        else:
            low = ratio
    # The last midpoint, not an end of the interval, is what the released weights were made with.
    distance = np.cumsum(ratio ** np.arange(k, dtype=np.float64))
    return np.concatenate([-distance[::-1], [0.0], distance])


def _spline_matrix(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(T, S) matrix that evaluates the not-a-knot cubic spline on S ascending knots x at T points u.

    Fewer than four knots get the polynomial through all of them, which is what not-a-knot ends
    leave of a spline.
    """
    size = len(x)
    if size < 4:
        columns = []
        for i in range(size):
            others = np.delete(x, i)
            columns.append(((u[:, None] - others) / (x[i] - others)).prod(1))
        return np.stack(columns, 1)
    h = np.diff(x)
    # Second derivatives M solve A M = B y: continuity inside, not-a-knot at both ends.
    a, b = np.zeros((size, size)), np.zeros((size, size))
    inner = np.arange(1, size - 1)
    a[inner, inner - 1] = h[:-1] / 6
    a[inner, inner] = (h[:-1] + h[1:]) / 3
    a[inner, inner + 1] = h[1:] / 6
    b[inner, inner - 1] = 1 / h[:-1]
    b[inner, inner] = -1 / h[:-1] - 1 / h[1:]
    b[inner, inner + 1] = 1 / h[1:]
    a[0, 0], a[0, 1], a[0, 2] = 1 / h[0], -1 / h[0] - 1 / h[1], 1 / h[1]
    a[-1, -3], a[-1, -2], a[-1, -1] = 1 / h[-2], -1 / h[-2] - 1 / h[-1], 1 / h[-1]
    second = np.linalg.solve(a, b)
    i = (np.searchsorted(x, u, side="right") - 1).clip(0, size - 2)
    step = h[i]
    right = (u - x[i]) / step
    left = 1 - right
    rows = np.arange(len(u))
    value = np.zeros((len(u), size))
    value[rows, i] = left
    value[rows, i + 1] = right
    curve = np.zeros_like(value)
    curve[rows, i] = (left**3 - left) * step**2 / 6
    curve[rows, i + 1] = (right**3 - right) * step**2 / 6
    return value + curve @ second


# In NumPy: modes of torch that only trace or fake what they run need its numbers.
def _geometric_array(old: int, new: int) -> np.ndarray:
    """(2 * new - 1, 2 * old - 1) matrix that resamples one axis of a table to another length."""
    x = _geometric_coordinates(2 * old - 1, 2 * new - 1)
    u = np.arange(-(new - 1), new, dtype=np.float64).clip(x[0], x[-1])
    return _spline_matrix(x, u)


@byte_bounded_lru_cache(2**24)
def _geometric_matrix(old: int, new: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """`_geometric_array` as a tensor."""
    return torch.from_numpy(_geometric_array(old, new)).to(device=device, dtype=dtype)


@cache
def _geometric_matrices(old: int, dtype: torch.dtype) -> Tensor:
    """The matrices of all lengths up to `MAX_SYMBOLIC_SIDE`, one after the other, (L * L, 2 * old - 1)."""
    lengths = range(1, MAX_SYMBOLIC_SIDE + 1)
    rows = [np.eye(2 * old - 1) if n == old else _geometric_array(old, n) for n in lengths]
    with _disable_current_modes():  # real numbers, whatever is being traced
        return torch.from_numpy(np.concatenate(rows)).to(dtype)


def _geometric_matrix_of_any(
    old: int, new: torch.SymInt, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The matrix of a length that a graph learns when it runs: rows of a constant."""
    return _geometric_matrices(old, dtype).to(device).narrow(0, (new - 1) ** 2, 2 * new - 1)


def resample_rpb(table_NH: Tensor, old: int, new: Grid, method: Resampling = "geometric") -> Tensor:
    """Resize a relative position table from a square grid to another grid. Differentiable.

    Args:
        table_NH: (N, H), N = (2 * old - 1) ** 2 + 3; the last 3 rows serve CLS and are kept.
        old: side of the table's grid, in patches.
        new: rows and columns of the wanted grid, in patches.
        method: "geometric", offsets keep their distances near zero and spread geometrically
            further out, with a cubic spline between; each axis follows its own side, and an axis
            that keeps its side is unchanged. "bicubic", evenly, as the official detector.

    Returns:
        (N', H), N' = (2 * rows - 1) * (2 * columns - 1) + 3, same dtype.

    Raises:
        ValueError: if N does not match `old`.

    Source: the geometric resampling of the BEiT family, as used by ONE-PEACE.
    """
    if len(table_NH) != num_rpb_rows((old, old)):
        raise ValueError(
            f"the table has {table_NH.shape[0]} rows, a {old} x {old} grid has "
            f"{num_rpb_rows((old, old))}. Pass the side of the grid the table was made for."
        )
    if not isinstance(sum(new), torch.SymInt) and new == (old, old):
        return table_NH
    # Half precision loses the spline's accuracy; float64 stays what it is.
    dtype = torch.float64 if table_NH.dtype == torch.float64 else torch.float32
    side = 2 * old - 1
    values = table_NH[:-CLS_ROWS].to(dtype).view(side, side, -1)
    if method == "bicubic":
        values = values.permute(2, 0, 1)[None]
        size = (2 * new[0] - 1, 2 * new[1] - 1)
        values = F.interpolate(values, size=size, mode="bicubic", align_corners=False)
        values = values[0].permute(1, 2, 0)
    else:
        # Equal sides are skipped: the geometric rule would not be the identity there.
        for equation, length in zip(("ts,swh->twh", "ts,hsn->htn"), new, strict=True):
            if isinstance(length, torch.SymInt):
                matrix = _geometric_matrix_of_any(old, length, dtype, table_NH.device)
            elif length == old:
                continue
            else:
                matrix = _geometric_matrix(old, length, dtype, table_NH.device)
            values = torch.einsum(equation, matrix, values)
    return torch.cat([values.flatten(0, 1).to(table_NH.dtype), table_NH[-CLS_ROWS:]])


def sine_positions(grid: Grid, dim: int) -> Tensor:
    """Positions of a grid before training: half of the channels for the row, half for the column.

    Each half has sines and cosines of the index times 1, ... 1/100; channels that are left over,
    where `dim` is not a multiple of 4, are 0.

    Returns:
        (rows * columns, dim)
    """
    count = dim // 4
    frequencies = 100 ** -(torch.arange(count) / count)
    rows, columns = (
        torch.cat([angles.sin(), angles.cos()], 1)
        for angles in (torch.arange(side)[:, None] * frequencies for side in grid)
    )
    positions = torch.zeros(*grid, dim)
    positions[..., : 2 * count] = rows[:, None]
    positions[..., 2 * count : 4 * count] = columns
    return positions.flatten(0, 1)


def resample_pos_embed(pos_ND: Tensor, new: Grid) -> Tensor:
    """Resize learned image positions to another grid, bicubically; CLS (row 0) is kept.

    Args:
        pos_ND: (side ** 2 + 1, D).
        new: rows and columns of the wanted grid.

    Returns:
        (rows * columns + 1, D), same dtype. Differentiable.

    Raises:
        ValueError: if the number of rows is not a square plus one.

    Source: the official multimodal code (bicubic, align_corners False, no antialias, in fp32).
    """
    side = square_side(len(pos_ND) - 1, f"a position table of {len(pos_ND)} rows")
    if not isinstance(sum(new), torch.SymInt) and new == (side, side):
        return pos_ND
    dtype = torch.float64 if pos_ND.dtype == torch.float64 else torch.float32
    grid_map = pos_ND[1:].to(dtype).t().reshape(1, -1, side, side)
    resized = F.interpolate(grid_map, size=new, mode="bicubic", align_corners=False)
    return torch.cat([pos_ND[:1], resized[0].flatten(1).t().to(pos_ND.dtype)])


def resample_rel_pos(table_ND: Tensor, new: int) -> Tensor:
    """Resize a table (2 * old - 1, D) of relative positions along one axis, linearly.

    Returns (2 * new - 1, D), same dtype. Differentiable. Source: ViTDet.
    """
    rows = 2 * new - 1
    if len(table_ND) == rows:
        return table_ND
    resized = F.interpolate(table_ND.float().t()[None], size=rows, mode="linear")
    return resized[0].t().to(table_ND.dtype)


def resample_time(positions_1TD: Tensor, frames: int) -> Tensor:
    """Positions in time of another number of frames, (1, frames, D): linear, frames being intervals.

    The released video models have 16 or 32 of them, of clips that last as long.
    """
    x_1DT = positions_1TD.float().transpose(1, 2)
    x_1DT = F.interpolate(x_1DT, size=frames, mode="linear", align_corners=False)
    return x_1DT.transpose(1, 2).to(positions_1TD.dtype)
