"""Images: pixels to patch tokens.

Shapes: B batch, H, W rows and columns, h, w those of patches, C channels, L tokens, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.adapters.base import Adapter, Shapes
from mmonepeace.layers.relative_position_bias import RelativePositionBias2D
from mmonepeace.layers.resampling import (
    Resampling,
    resample_pos_embed,
    resample_time,
    sine_positions,
)
from mmonepeace.layers.tokens import Tokens
from mmonepeace.spec import LAYER_NORM_EPS, PATCH_SIZE, PRETRAIN_IMG_SIZE, Arch


class PatchConv(nn.Conv2d):
    """Convolution of patches that do not overlap, channels last, as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int, side: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, side, side, bias=bias)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H / side, W / side, C')."""
        side = self.stride[0]
        patches = x_BHWC.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
        # Rows, columns, channels: neighbours in memory stay neighbours.
        return F.linear(patches.flatten(3), self.weight.movedim(1, 3).flatten(1), self.bias)


def hmlp_stem(dim: int, in_channels: int = 3) -> nn.Sequential:
    """Patches through three non-overlapping convolutions: they never exchange information.

    Raises:
        ValueError: if `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(
            f"the hmlp stem starts at a quarter of embed_dim; {dim} is not a multiple of 4."
        )
    return nn.Sequential(
        PatchConv(in_channels, dim // 4, 4),
        nn.LayerNorm(dim // 4, LAYER_NORM_EPS),
        nn.GELU(),
        PatchConv(dim // 4, dim // 4, 2),
        nn.LayerNorm(dim // 4, LAYER_NORM_EPS),
        nn.GELU(),
        PatchConv(dim // 4, dim, 2),
    )


def conv_stem(dim: int, in_channels: int = 3) -> PatchConv:
    """One convolution of 16 x 16 patches."""
    return PatchConv(in_channels, dim, PATCH_SIZE, bias=False)


class _ConvBlock(nn.Module):
    """3 x 3 convolution, LayerNorm and GELU; with stride 1 it is added to its input."""

    def __init__(self, in_dim: int, dim: int, stride: int) -> None:
        super().__init__()
        # A bias that is not zero: LayerNorm would multiply gradients by 1 / sqrt(eps) where the image
        # is padding, which is zero in all channels.
        self.conv = nn.Conv2d(in_dim, dim, 3, stride, padding=1)
        self.norm = nn.LayerNorm(dim, LAYER_NORM_EPS)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride), channels last in memory."""
        y = self.conv(x_BCHW).movedim(1, 3)
        y = F.gelu(self.norm(y)).movedim(3, 1)
        return y if self.conv.stride[0] > 1 else x_BCHW + y


class OverlappingStem(nn.Module):
    """Convolutions of 3 x 3 pixels: patches see their neighbours, and maps of finer strides exist.

    Masked patches would be visible to their neighbours, so that it is not for pretraining with
    denoising alone.

    Args:
        dim: width of the patches, a multiple of 8.
        in_channels: of the images.
    """

    def __init__(self, dim: int, in_channels: int = 3) -> None:
        super().__init__()
        if dim % 8:
            raise ValueError(
                f"the overlapping stem starts at an eighth of embed_dim; {dim} is not a multiple of 8."
            )
        start, *finer = dim // 8, *overlapping_widths(dim)
        self.first = _ConvBlock(in_channels, start, 2)
        self.levels = nn.ModuleList(
            nn.Sequential(_ConvBlock(inside, outside, 2), _ConvBlock(outside, outside, 1))
            for inside, outside in pairwise((start, *finer))
        )
        self.last = _ConvBlock(finer[-1], dim, 2)
        self.proj = nn.Linear(dim, dim)

    def maps(self, x_BHWC: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, H, W, 3) -> patches (B, H / 16, W / 16, D), and maps (B, C, H / s, W / s), s = 4, 8."""
        x = self.first(x_BHWC.movedim(3, 1).contiguous(memory_format=torch.channels_last))
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return self.proj(self.last(x).movedim(1, 3)), maps

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """(B, H, W, 3) -> (B, H / 16, W / 16, D)."""
        return self.maps(x_BHWC)[0]


def overlapping_widths(dim: int) -> tuple[int, int]:
    """Channels of the maps of strides 4 and 8 of an `OverlappingStem`."""
    return dim // 4, dim // 2


STEMS: dict[str, Callable[[int, int], nn.Module]] = {
    "hmlp": hmlp_stem,
    "conv": conv_stem,
    "overlapping": OverlappingStem,
}
# First convolution of each stem, which has the channels of the images.
FIRST_CONVS = {"hmlp": "stem.0", "conv": "stem", "overlapping": "stem.first.conv"}


class ImageAdapter(Adapter):
    """Image to patch tokens with learned positions and 2-D relative position bias.

    Args:
        modality: see `Adapter`.
        arch: widths and variants.
        num_tables: RPB tables, 1 or one per block.
        img_size: side in pixels of the square image whose grid positions and tables are for.
        cls_token: whether CLS comes before the patches; detectors have none.
        rpb_sides: of the square grids in patches that the tables are for, if not that of
            `img_size`; a number is the side of all.
        rpb_resampling: for other grids, see `resample_rpb`.
        in_channels: of the images. The released models take the 3 of RGB.
        initial_positions: before training. "random" are those of the official code; "sine" are
            sines and cosines of row and column, with which small models learn sooner where things
            are.
        num_frames: of videos, whose positions in time are learned, see `add_time`; 0 for images.

    Raises:
        ValueError: if `img_size` is not a multiple of the patch size, there is no channel, or the
            initial positions are unknown.
    """

    stem: Any  # a module, whose methods torch does not type

    def __init__(
        self,
        modality: str,
        arch: Arch,
        num_tables: int,
        img_size: int = PRETRAIN_IMG_SIZE,
        cls_token: bool = True,
        rpb_sides: Sequence[int] | int | None = None,
        rpb_resampling: Resampling = "geometric",
        in_channels: int = 3,
        initial_positions: Literal["random", "sine"] = "random",
        num_frames: int = 0,
    ) -> None:
        super().__init__(modality, arch, cls_token)
        if initial_positions not in ("random", "sine"):
            raise ValueError(
                f"initial_positions is {initial_positions!r}; choose 'random' or 'sine'."
            )
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}, expected 1 or more; RGB has 3.")
        if img_size < PATCH_SIZE or img_size % PATCH_SIZE:
            raise ValueError(
                f"img_size {img_size} is not a multiple of {PATCH_SIZE}. It only names the grid "
                "the tables are for: images may have any size."
            )
        dim, side = arch.embed_dim, img_size // PATCH_SIZE
        self.grid = (side, side)
        self.in_channels = in_channels
        self.initial_positions = initial_positions
        self.stem = STEMS[arch.stem](dim, in_channels)
        self.pos_embed = nn.Parameter(torch.zeros(side**2 + 1, dim))
        # Added to the second image of a pair (NLVR2), besides the common one.
        self.type_embed_2 = nn.Parameter(torch.zeros(1, 1, dim)) if arch.type_embed else None
        # Officially (1, frames, width), zero at first; of models of images there is none.
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, dim)) if num_frames else None
        sides = rpb_sides or side
        if isinstance(sides, int):
            sides = [sides] * num_tables
        self.rpb = RelativePositionBias2D(sides, arch.num_heads, cls_token, rpb_resampling)

    def reset_positions(self) -> None:
        """See `Adapter`."""
        if self.initial_positions == "sine":
            self.pos_embed[1:] = sine_positions(self.grid, self.pos_embed.shape[1])
            if self.temporal_embed is not None:
                frames, width = self.temporal_embed.shape[1:]
                self.temporal_embed[0] = sine_positions((1, frames), width)

    @staticmethod
    def infer_options(shapes: Shapes, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The channels of the images, if they are not RGB."""
        convs = (shapes.get(f"{name}.weight") for name in FIRST_CONVS.values())
        channels = next((shape[1] for shape in convs if shape is not None and len(shape) == 4), 3)
        return {} if channels == 3 else {"in_channels": channels}

    def features(self, images_B3HW: Tensor, second: bool = False) -> Tokens:
        """Embed images of any one size.

        Sides that are not a multiple of 16 are padded on the right and bottom with zeros, the
        mean colour of a normalised image.

        Args:
            images_B3HW: (B, 3, H, W), RGB, normalised with `spec.IMAGE_MEAN`, `spec.IMAGE_STD`; with
                other `in_channels`, that many in place of 3.
            second: these are the second images of pairs.

        Returns:
            Tokens with L = ceil(H / 16) * ceil(W / 16) + 1, or one less without CLS.

        Raises:
            ValueError: if the input is not (B, 3, H, W).
        """
        return self._tokens(self.stem(self._pad(images_B3HW)), second)

    def add_time(self, x_BTLD: Tensor) -> Tensor:
        """Add the position in time of each frame, CLS included; for other numbers of frames, resampled."""
        positions_1TD = self.temporal_embed
        assert positions_1TD is not None
        if positions_1TD.shape[1] != x_BTLD.shape[1]:
            positions_1TD = resample_time(positions_1TD, x_BTLD.shape[1])
        return x_BTLD + positions_1TD[:, :, None]

    def with_maps(self, images_B3HW: Tensor) -> tuple[Tokens, list[Tensor]]:
        """`features`, and the maps (B, C, ceil(H / s), ceil(W / s)) of an `OverlappingStem`, s = 4, 8."""
        height, width = images_B3HW.shape[-2:]
        patches_BhwD, maps = self.stem.maps(self._pad(images_B3HW))
        # Cells that are all padding would shift what heads resize to the image.
        maps = [
            x[..., : -(-height // stride), : -(-width // stride)]
            for x, stride in zip(maps, (4, 8), strict=True)
        ]
        return self._tokens(patches_BhwD), maps

    def _pad(self, images_B3HW: Tensor) -> Tensor:
        """Checked, padded to complete patches, and channels last."""
        channels = self.in_channels
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != channels or 0 in images_B3HW.shape:
            raise ValueError(
                f"images have shape {tuple(images_B3HW.shape)}, expected (batch, {channels}, "
                "height, width). Add the batch dimension, convert grey or RGBA images to RGB."
            )
        height, width = images_B3HW.shape[-2:]
        pad = (0, -width % PATCH_SIZE, 0, -height % PATCH_SIZE)
        if any(pad):
            images_B3HW = F.pad(images_B3HW, pad)
        return images_B3HW.movedim(1, 3)

    def _tokens(self, patches_BhwD: Tensor, second: bool = False) -> Tokens:
        rows, columns = patches_BhwD.shape[1:3]
        if torch.jit.is_tracing():  # for this size; there they are tensors
            rows, columns = int(rows), int(columns)
        grid = (rows, columns)
        positions = self.pos_embed
        # A graph for all sizes does not know this one.
        if isinstance(rows + columns, torch.SymInt) or grid != self.grid:
            positions = resample_pos_embed(positions, grid)
        if second and self.type_embed_2 is not None:
            positions = positions + self.type_embed_2[0]
        bias = partial(self.rpb, grid)
        return self.assemble(patches_BhwD.flatten(1, 2), positions, bias, grid=grid)
