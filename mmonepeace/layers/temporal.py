"""Blocks of videos: frames share an image block, and bottleneck adapters mix them over time.

Shapes: B videos, T frames of each, L tokens of a frame (CLS first), D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.encoder import EncoderLayer
from mmonepeace.layers.indices import index_for
from mmonepeace.layers.kernels import Residual, add_to
from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias


class Bottleneck(nn.Module):
    """up(gelu(down x)), added to x with `skip`; the second layer starts at zero.

    Args:
        dim: width.
        hidden: width of the bottleneck.
        skip: whether the input is added.
    """

    def __init__(self, dim: int, hidden: int, skip: bool) -> None:
        super().__init__()
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)
        self.skip = skip
        self.reset_output()

    def reset_output(self) -> None:
        """Start at zero: a video is then computed as its frames are."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out = self.up(F.gelu(self.down(x)))
        return x + out if self.skip else out


@dataclass(frozen=True)
class VideoBlock:
    """What a `VideoLayer` has besides an image block.

    Attributes:
        temporal_adapters: 1, after the attention over frames; 2, one before it too.
        ratio: width of the bottlenecks, in widths of the encoder.
        ffn_scale: factor of the adapter beside the FFN.
    """

    temporal_adapters: int = 1
    ratio: float = 0.25
    ffn_scale: float = 0.5

    def __post_init__(self) -> None:
        if self.temporal_adapters not in (1, 2):
            raise ValueError(f"temporal_adapters is {self.temporal_adapters}, expected 1 or 2.")
        if self.ratio <= 0:
            raise ValueError(f"adapter_ratio is {self.ratio}, expected a fraction of the width.")


class VideoLayer(EncoderLayer):
    """An `EncoderLayer` of images whose attention also runs over the frames at each place.

    With LN and attention being those of the block, x of a frame, and y what the frames add to it:
        y = x + drop(temporal(attention over frames(LN(x))))
        x = x + drop(gamma_1 * spatial(attention within a frame(LN(y))))     (x, not y)
        x = x + gamma_2 * FFN(LN(x)) + drop(scale * ffn(LN(x)))
    where temporal, spatial and ffn are bottlenecks, of which `spatial` adds its input. Drop path drops
    frames, not videos.

    Args:
        arch: see `EncoderLayer`.
        modalities: the same.
        drop_path_rate: the same.
        layer_scale_init: the same.
        attention: the same.
        block: of the bottlenecks.

    Source: AIM (arXiv 2302.03024) and the official ONE-PEACE model of videos.
    """

    def __init__(
        self,
        arch: Any,
        modalities: Any,
        drop_path_rate: float,
        layer_scale_init: float | None,
        attention: Any,
        block: VideoBlock = VideoBlock(),
    ) -> None:
        super().__init__(arch, modalities, drop_path_rate, layer_scale_init, attention)
        dim = arch.embed_dim
        hidden = max(1, int(dim * block.ratio))
        self.ffn_scale = block.ffn_scale
        before = block.temporal_adapters == 2
        self.temporal_adapter_in = Bottleneck(dim, hidden, skip=True) if before else None
        self.temporal_adapter = Bottleneck(dim, hidden, skip=False)
        self.spatial_adapter = Bottleneck(dim, hidden, skip=True)
        self.ffn_adapter = Bottleneck(dim, hidden, skip=False)

    def forward(
        self,
        x_BTLD: Tensor,
        lengths: dict[str, int],
        bias: AttentionBias,
        scales: Sequence[Tensor | None] = (None, None),
    ) -> Tensor:
        """(B, T, L, D) -> (B, T, L, D); `bias` is that of a frame, `scales` are not used."""
        (modality,) = lengths
        shape = x_BTLD.shape
        x = x_BTLD.flatten(0, 1)
        y = self._over_frames(x, shape)

        def spatial(_: Tensor, frames: Sequence[int] | None, residual: Residual | None) -> Tensor:
            rows = _select(y, frames)
            out = self.attn(self.norm1(rows), bias)
            if self.post_attn_norm is not None:
                out = self.post_attn_norm(out)
            return add_to(residual, self.spatial_adapter(out))

        x = self.drop_path(x, spatial, self.gamma_1)
        normed = self.norm2(x)

        def adapter(_: Tensor, frames: Sequence[int] | None, residual: Residual | None) -> Tensor:
            out = self.ffn_scale * self.ffn_adapter(_select(normed, frames))
            return add_to(residual, out)

        x = self.ffn[modality](normed, Residual(x, self.gamma_2))
        return self.drop_path(x, adapter).view(shape)

    def _over_frames(self, x: Tensor, shape: torch.Size) -> Tensor:
        """x + drop(temporal(attention over frames)), (B * T, L, D)."""
        # Frames of a place are a sequence: (B * L, T, D). It has no relative positions.
        sequences = self.norm1(x).view(shape).transpose(1, 2).flatten(0, 1)
        if self.temporal_adapter_in is not None:
            sequences = self.temporal_adapter_in(sequences)
        mixed = self.temporal_adapter(self.attn(sequences, DenseBias()))
        mixed = mixed.view(shape[0], shape[2], shape[1], shape[3]).transpose(1, 2).flatten(0, 1)
        if not self.training or self.drop_path.rate == 0:
            return x + mixed
        # All frames attend, so that none is left out of the computation.
        return torch.addcmul(x, mixed, self.drop_path.scales(x).to(x.dtype))


def _select(x: Tensor, rows: Sequence[int] | None) -> Tensor:
    """Some rows of a tensor, or all."""
    return x if rows is None else x.index_select(0, index_for(x, rows))
