"""Stems: the layers that turn raw inputs into patches of images and frames of audio.

Shapes: B batch, H, W rows and columns, C channels, S audio samples, T audio frames, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.spec import AUDIO_CONVS, LAYER_NORM_EPS


class PatchConv(nn.Conv2d):
    """Convolution of patches that do not overlap, channels last, as a matrix product.

    Args:
        in_channels: C.
        out_channels: C'.
        side: of a patch.
        bias: whether there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, side, side, bias=bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / side, W / side, C')."""
        side = self.stride[0]
        patches = x_BHWC.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        # Rows, columns, channels: neighbours in memory stay neighbours.
        return F.linear(patches.flatten(3), self.weight.movedim(1, 3).flatten(1), self.bias)


def hmlp_stem(dim: int) -> nn.Sequential:
    """Patches through three non-overlapping convolutions: they never exchange information.

    Raises:
        ValueError: if `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f"the hmlp stem starts at a quarter of embed_dim; {dim} is not a multiple of 4."
        )
    return nn.Sequential(
        PatchConv(3, dim // 4, 4),
        nn.LayerNorm(dim // 4, LAYER_NORM_EPS),
        nn.GELU(),
        PatchConv(dim // 4, dim // 4, 2),
        nn.LayerNorm(dim // 4, LAYER_NORM_EPS),
        nn.GELU(),
        PatchConv(dim // 4, dim, 2),
    )


class _ExtractorLayer(nn.Module):
    """One layer of the wav2vec 2.0 feature extractor, layer-norm mode, without bias."""

    def __init__(self, in_dim: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, dim, kernel, stride, bias=False)
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T', C')."""
        # As a matrix product, with channels last: the norm need not copy, and on a CPU it is faster
        # than torch's convolution, see benchmarks/pretrain_step.py.
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        windows = x_BTC.unfold(1, kernel, stride).transpose(2, 3).flatten(2)
        weight = self.conv.weight.transpose(1, 2).flatten(1)
        return F.gelu(self.norm(F.linear(windows, weight)))


def audio_extractor(dim: int) -> nn.Sequential:
    """(B, S, 1) -> (B, T, C), 50 frames a second: that of wav2vec 2.0.

    Args:
        dim: C.
    """
    widths = [1, *(dim for _ in AUDIO_CONVS)]
    return nn.Sequential(
        *(_ExtractorLayer(w, dim, *c) for w, c in zip(widths, AUDIO_CONVS, strict=False))
    )
