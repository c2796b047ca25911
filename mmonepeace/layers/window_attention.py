"""Attention on a map of patches, global or in windows, as detectors have it.

Shapes: B batch, h and w rows and columns, L = h * w, D width, H heads, d = D / H, n windows of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.encoder import SelfAttention
from mmonepeace.layers.kernels import Residual, add_to, attend
from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias
from mmonepeace.layers.resampling import Grid, resample_rel_pos
from mmonepeace.spec import Arch


def window_partition(x_BhwD: Tensor, window: int) -> tuple[Tensor, Tensor | None]:
    """Split maps into square windows, padded on the right and bottom.

    Returns (B * n, window, window, D), and (n, window ** 2) True where a patch is padding, or None if
    there is none.
    """
    batch, rows, columns, dim = x_BhwD.shape
    pad = (0, -columns % window, 0, -rows % window)
    x = F.pad(x_BhwD, (0, 0, *pad)) if any(pad) else x_BhwD
    down, across = x.shape[1] // window, x.shape[2] // window
    windows = x.view(batch, down, window, across, window, dim).transpose(2, 3)
    windows = windows.reshape(-1, window, window, dim)
    if not any(pad):
        return windows, None
    real = F.pad(x.new_ones(rows, columns, dtype=torch.bool), pad)
    real = real.view(down, window, across, window).transpose(1, 2)
    return windows, ~real.reshape(down * across, window**2)


def window_unpartition(windows: Tensor, grid: Grid) -> Tensor:
    """Undo `window_partition`: (B * n, window, window, D) -> (B, h, w, D)."""
    window = windows.shape[1]
    down, across = (-(-side // window) for side in grid)
    x = windows.view(-1, down, across, window, window, windows.shape[-1]).transpose(2, 3)
    x = x.reshape(-1, down * window, across * window, windows.shape[-1])
    return x[:, : grid[0], : grid[1]]


class GridAttention(SelfAttention):
    """Self-attention on a map, global or in windows, with decomposed relative positions.

    Args:
        arch: widths and variants.
        window: side of a window in patches; None: all patches of a map attend to each other.
        rel_pos_side: side of the square map that the tables of rows and columns are for; None
            leaves them out. They are resampled for other maps.

    Source: the positions of MViTv2, arXiv 2112.01526, as ViTDet uses them.
    """

    def __init__(self, arch: Arch, window: int | None, rel_pos_side: int | None) -> None:
        super().__init__(arch)
        self.window = window
        self.rel_pos_h = self.rel_pos_w = None
        if rel_pos_side is not None:
            rows, width = 2 * rel_pos_side - 1, arch.embed_dim // arch.num_heads
            self.rel_pos_h = nn.Parameter(torch.zeros(rows, width))
            self.rel_pos_w = nn.Parameter(torch.zeros(rows, width))

    def forward(
        self, x_BhwD: Tensor, bias: AttentionBias, residual: Residual | None = None
    ) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D), added to a residual if there is one.

        The bias is that of a window or of the entire map.
        """
        if self.window is None:
            return add_to(residual, self._attend(x_BhwD, bias))
        windows, pad = window_partition(x_BhwD, self.window)
        if pad is not None:  # a window always has a dense bias
            pad = pad.repeat(len(x_BhwD), 1)[:, None, None]
            bias = DenseBias(torch.where(pad, -torch.inf, bias.dense()))  # type: ignore[arg-type]
        x = window_unpartition(self._attend(windows, bias), (x_BhwD.shape[1], x_BhwD.shape[2]))
        return add_to(residual, x)

    def _attend(self, x_BhwD: Tensor, bias: AttentionBias) -> Tensor:
        grid = (x_BhwD.shape[1], x_BhwD.shape[2])
        q, k, v = self.project_qkv(x_BhwD.flatten(1, 2))
        scale = q.shape[-1] ** -0.5
        if self.rel_pos_h is not None:
            # Positions as a few more components of queries and keys: the bias of each sample,
            # L x L values for each head, is never stored.
            offsets, one_hot = self._relative(q, grid)
            q = torch.cat([q * scale, offsets], -1)
            k = torch.cat([k, one_hot.expand(*k.shape[:2], -1, -1)], -1)
            scale = 1.0
        return self.merge_heads(attend(q, k, v, bias, scale, self.backend)).unflatten(1, grid)

    def _relative(self, q_BHLd: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """What each query adds to the logits of each row and column, and which ones a key is in.

        (B, H, L, E) and one-hot (L, E) with E = h + w, and zeros up to a multiple of 8, which the
        kernels need.
        """
        q = q_BHLd.unflatten(2, grid)
        tables = (self.rel_pos_h, self.rel_pos_w)  # without them this is not called
        logits = []
        for table, side, equation in zip(
            tables, grid, ("bnhwd,hkd->bnhwk", "bnhwd,wkd->bnhwk"), strict=True
        ):
            position = torch.arange(side, device=q.device)
            offsets = position[:, None] - position + side - 1
            relative = resample_rel_pos(table, side)[offsets].to(q.dtype)  # type: ignore[arg-type]
            logits.append(torch.einsum(equation, q, relative))
        added = torch.cat(logits, -1).flatten(2, 3)
        rows, columns = (torch.eye(side, dtype=q.dtype, device=q.device) for side in grid)
        one_hot = torch.cat([rows.repeat_interleave(grid[1], 0), columns.repeat(grid[0], 1)], 1)
        pad = (0, -added.shape[-1] % 8)
        return F.pad(added, pad), F.pad(one_hot, pad)
