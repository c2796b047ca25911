"""Multi-scale deformable attention: each query attends to a few points of some maps.

Shapes: B batch, Q queries, K keys (the cells of all levels), D width, H heads, d head width,
S levels, P points.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.resampling import Grid
from mmonepeace.layers.tensor_cache import byte_bounded_lru_cache


@cache
def _compiled() -> type[torch.autograd.Function] | None:
    """mmcv's operator, where it was compiled."""
    try:
        from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
    except ImportError:
        return None
    return MultiScaleDeformableAttnFunction


def deform_attend(
    value_BKHd: Tensor, grids: Sequence[Grid], points_BQHSP2: Tensor, weights_BQHSP: Tensor
) -> Tensor:
    """Weighted sum of values at points, bilinear between cells and zero outside the maps.

    Runs in float32 at least, whatever the dtype of the values: points between cells are lost in
    bfloat16. On CUDA mmcv's operator does it where it was compiled, elsewhere plain PyTorch.

    Args:
        value_BKHd: values of all levels, concatenated.
        grids: rows and columns of each level.
        points_BQHSP2: (x, y) in units of the map, 0 to 1 from its left and top edge.
        weights_BQHSP: weights of the points.

    Returns:
        (B, Q, H * d) in the dtype of the values.

    Source: Deformable DETR, arXiv 2010.04159.
    """
    dtype = value_BKHd.dtype
    wide = torch.promote_types(dtype, torch.float32)
    with torch.autocast(value_BKHd.device.type, enabled=False):
        value, points, weights = (t.to(wide) for t in (value_BKHd, points_BQHSP2, weights_BQHSP))
        operator = _compiled() if value.is_cuda and wide == torch.float32 else None
        if operator is not None:
            shapes = torch.tensor(grids, device=value.device)
            starts = F.pad(shapes.prod(1).cumsum(0)[:-1], (1, 0))
            out = operator.apply(
                value.contiguous(), shapes, starts, points.contiguous(), weights.contiguous(), 64
            )
        else:
            out = _plain(value, grids, points, weights)
    return out.to(dtype)


def _plain(value_BKHd: Tensor, grids: Sequence[Grid], points: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, width = value_BKHd.shape
    # The maps of a level, one for each head of each sample.
    levels = value_BKHd.split([rows * columns for rows, columns in grids], 1)
    points = (2 * points - 1).transpose(1, 2).flatten(0, 1)  # (B * H, Q, S, P, 2)
    weights = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B * H, 1, Q, S, P)
    out = value_BKHd.new_zeros(())
    for i, (level, grid) in enumerate(zip(levels, grids, strict=True)):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, width, *grid)
        sampled = F.grid_sample(maps, points[:, :, i], padding_mode="zeros", align_corners=False)
        out = out + (sampled * weights[:, :, :, i]).sum(-1)  # (B * H, d, Q)
    return out.view(batch, heads * width, -1).transpose(1, 2)


@byte_bounded_lru_cache(2**25)
def cell_centres(grids: tuple[Grid, ...], device: torch.device | str) -> Tensor:
    """(x, y) of the centres of all cells of some maps, in units of the map: (Q, 2) float32."""
    centres = []
    for rows, columns in grids:
        y = (torch.arange(rows, device="cpu") + 0.5) / rows
        x = (torch.arange(columns, device="cpu") + 0.5) / columns
        every = x.expand(rows, columns), y[:, None].expand(rows, columns)
        centres.append(torch.stack(every, -1).flatten(0, 1))
    return torch.cat(centres).to(device)


class DeformableAttention(nn.Module):
    """Deformable attention between the cells of some maps and those of others.

    Args:
        dim: width.
        num_heads: heads.
        num_levels: maps of the keys.
        num_points: points per query on each level.
        value_ratio: width of the values, as a fraction of `dim`.

    Raises:
        ValueError: if the heads do not divide the width of the values.

    Source: Deformable DETR; values of another width as in ViT-Adapter, arXiv 2205.08534.
    """

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, value_ratio: float
    ) -> None:
        super().__init__()
        width = int(dim * value_ratio)
        if width % num_heads:
            raise ValueError(
                f"deformable attention: the width of the values, {width} ({value_ratio} of {dim}), is not "
                f"divisible by {num_heads} heads. Choose another deform_ratio or deform_heads."
            )
        self.shape = (num_heads, num_levels, num_points)
        count = math.prod(self.shape)
        self.sampling_offsets = nn.Linear(dim, 2 * count)
        self.attention_weights = nn.Linear(dim, count)
        self.value_proj = nn.Linear(dim, width)
        self.output_proj = nn.Linear(width, dim)
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        """Heads look in different directions, points at growing distances, with equal weights."""
        heads, levels, points = self.shape
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1)
        offsets = directions[:, None, None] * steps[:, None]  # (H, 1, P, 2)
        self.sampling_offsets.bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query_BQD: Tensor,
        query_grids: tuple[Grid, ...],
        keys_BKD: Tensor,
        key_grids: tuple[Grid, ...],
    ) -> Tensor:
        """Attend from the cells of some maps to those of others, all of the same image: (B, Q, D).

        Args:
            query_BQD: cells of the querying maps, concatenated.
            query_grids: their rows and columns.
            keys_BKD: cells of the maps that are attended to.
            key_grids: their rows and columns, one for each level.
        """
        heads, levels, points = self.shape
        value = self.value_proj(keys_BKD).unflatten(-1, (heads, -1))
        offsets = self.sampling_offsets(query_BQD).float().unflatten(-1, (*self.shape, 2))
        weights = self.attention_weights(query_BQD).float().unflatten(-1, (heads, levels * points))
        weights = weights.softmax(-1).unflatten(-1, (levels, points))
        # Offsets count cells of the level they point into.
        sizes = _sizes_of(key_grids, offsets)
        centres = cell_centres(query_grids, query_BQD.device)
        where = centres[:, None, None, None] + offsets / sizes[:, None]
        return self.output_proj(deform_attend(value, key_grids, where, weights))


def _sizes_of(grids: Sequence[Grid], like: Tensor) -> Tensor:
    """(columns, rows) of each level, (S, 2)."""
    if not any(isinstance(sum(grid), torch.SymInt) for grid in grids):
        return like.new_tensor([(columns, rows) for rows, columns in grids])
    # In a graph for all sizes: a tensor of numbers would be one of those that it was traced with.
    sides = [torch.scalar_tensor(side, dtype=like.dtype) for grid in grids for side in grid[::-1]]
    return torch.stack(sides).view(len(grids), 2).to(like.device)
