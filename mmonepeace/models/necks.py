"""The simple feature pyramid of ViTDet, and pooling for pyramids of narrow images.

Shapes: B batch, D width of the backbone, C channels of the pyramid.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmonepeace.registry import MODELS

PYRAMID_CHANNELS = 256  # of the usual pyramid
_EPS = 1e-6


# For convolutions of heads: `norm_cfg=dict(type="mmonepeace.LN2d")`.
@MODELS.register_module("LN2d")
class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _ConvNorm(nn.Conv2d):
    """Convolution without bias, and LayerNorm over its channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(out_channels, _EPS)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps of strides 4 to 64 from the last map of a plain backbone, of stride 16.

    Args:
        in_channels: D, a multiple of 4; segmentors and detectors of this package fill it in.
        out_channels: C.

    Source: ViTDet, arXiv 2203.16527.
    """

    def __init__(self, in_channels: int, out_channels: int = PYRAMID_CHANNELS) -> None:
        super().__init__()
        dim, half, quarter = in_channels, in_channels // 2, in_channels // 4
        four_times: list[nn.Module] = [
            nn.ConvTranspose2d(dim, half, 2, 2),
            ChannelNorm(half, _EPS),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        ]
        twice, halved = nn.ConvTranspose2d(dim, half, 2, 2), nn.MaxPool2d(2, 2, ceil_mode=True)
        scaled: tuple[tuple[list[nn.Module], int], ...]
        scaled = ((four_times, quarter), ([twice], half), ([], dim), ([halved], dim))
        self.levels = nn.ModuleList(
            nn.Sequential(
                *layers,
                _ConvNorm(channels, out_channels, 1),
                _ConvNorm(out_channels, out_channels, 3),
            )
            for layers, channels in scaled
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone, of which the last one is used -> five (B, C, ...)."""
        # mmcv's RoIAlign reads memory in the order (B, C, H, W), whatever the strides: it would misread
        # the channels-last maps that ChannelNorm returns.
        pyramid = [level(maps[-1]).contiguous() for level in self.levels]
        return (*pyramid, F.max_pool2d(pyramid[-1], 1, 2))


class NarrowMaxPool2d(nn.MaxPool2d):
    """`MaxPool2d` whose window is at most as large as the map, so that one row or column remains."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, max(1, H // 2), max(1, W // 2)) with a window and stride of 2."""
        assert isinstance(self.kernel_size, int)
        window = [min(self.kernel_size, side) for side in x.shape[2:]]
        return F.max_pool2d(x, window, self.stride)


def accept_narrow_maps(neck: nn.Module) -> None:
    """Let a neck halve maps of one row or column, as images of up to one patch give, to one."""
    for name, child in neck.named_children():
        if type(child) is nn.MaxPool2d:
            setattr(neck, name, NarrowMaxPool2d(child.kernel_size, child.stride))
