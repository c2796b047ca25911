"""ViT-Adapter: maps of four scales for a backbone that has one.

A convolutional stem computes features at strides 4 to 32. Between groups of blocks its maps are
injected into the patch tokens (injector) and updated from them (extractor).

Shapes: B batch, D width, N patch tokens, C cells of strides 8, 16 and 32, concatenated.
Names of the modules follow the official checkpoints.

Source: arXiv 2205.08534, with the settings of the official ONE-PEACE segmentation.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.deformable import DeformableAttention
from mmonepeace.layers.encoder import DropPath, activation_checkpoint
from mmonepeace.layers.kernels import Residual, add_to
from mmonepeace.layers.resampling import Grid

_EPS = 1e-6  # of the LayerNorms; the encoder's differs
_INJECTOR_INIT = 1e-6
Norm = Callable[[int], nn.Module]


class SpatialPrior(nn.Module):
    """The convolutional stem: `width` channels first, `dim` in the maps; others as in `ViTAdapter`."""

    def __init__(self, dim: int, width: int, norm: Norm, in_channels: int = 3) -> None:
        super().__init__()

        def conv(inside: int, outside: int, stride: int) -> list[nn.Module]:
            layer = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
            return [layer, norm(outside), nn.ReLU(inplace=True)]

        self.stem = nn.Sequential(
            *conv(in_channels, width, 2), *conv(width, width, 1), *conv(width, width, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip
        self.conv2 = nn.Sequential(*conv(width, 2 * width, 2))
        self.conv3 = nn.Sequential(*conv(2 * width, 4 * width, 2))
        self.conv4 = nn.Sequential(*conv(4 * width, 4 * width, 2))
        self.fc1 = nn.Conv2d(width, dim, 1)
        self.fc2 = nn.Conv2d(2 * width, dim, 1)
        self.fc3 = nn.Conv2d(4 * width, dim, 1)
        self.fc4 = nn.Conv2d(4 * width, dim, 1)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, H, W), sides multiples of 32 -> maps of strides 4, 8, 16, 32 with D channels."""
        c1 = self.stem(images_B3HW)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        return self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(c4)


class Injector(nn.Module):
    """Patch tokens attend to the pyramid."""

    def __init__(self, dim: int, heads: int, points: int, value_ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, _EPS)
        self.feat_norm = nn.LayerNorm(dim, _EPS)
        self.attn = DeformableAttention(dim, heads, 3, points, value_ratio)
        self.gamma = nn.Parameter(torch.full((dim,), _INJECTOR_INIT))

    def forward(self, x_BND: Tensor, grid: Grid, c_BCD: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """(B, N, D) and (B, C, D) -> (B, N, D)."""
        residual = self.attn(self.query_norm(x_BND), (grid,), self.feat_norm(c_BCD), grids)
        return x_BND + self.gamma * residual


class _DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel, on each map of the pyramid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, c_BCD: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        levels = c_BCD.split([rows * columns for rows, columns in grids], 1)
        out = [
            self.dwconv(level.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
            for level, grid in zip(levels, grids, strict=True)
        ]
        return torch.cat(out, 1)


class ConvFFN(nn.Module):
    """FFN with a convolution in its middle."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = _DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, c_BCD: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """(B, C, D) -> (B, C, D)."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(c_BCD), grids)))


class Extractor(nn.Module):
    """The pyramid attends to the patch tokens."""

    def __init__(
        self,
        dim: int,
        heads: int,
        points: int,
        value_ratio: float,
        ffn_ratio: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, _EPS)
        self.feat_norm = nn.LayerNorm(dim, _EPS)
        self.attn = DeformableAttention(dim, heads, 1, points, value_ratio)
        self.ffn_norm = nn.LayerNorm(dim, _EPS)
        self.ffn = ConvFFN(dim, int(dim * ffn_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, c_BCD: Tensor, grids: tuple[Grid, ...], x_BND: Tensor, grid: Grid) -> Tensor:
        """(B, C, D) and (B, N, D) -> (B, C, D)."""
        attended = self.attn(self.query_norm(c_BCD), grids, self.feat_norm(x_BND), (grid,))

        def ffn(c: Tensor, _: Tensor | None, residual: Residual | None) -> Tensor:
            return add_to(residual, self.ffn(self.ffn_norm(c), grids))

        return self.drop_path(c_BCD + attended, ffn)


class Interaction(nn.Module):
    """An injector before a group of blocks, and one or more extractors after it."""

    def __init__(self, injector: Injector, *extractors: Extractor) -> None:
        super().__init__()
        self.injector = injector
        self.extractor = extractors[0]
        self.extra_extractors = nn.ModuleList(extractors[1:])

    def extract(self, c: Tensor, grids: tuple[Grid, ...], x: Tensor, grid: Grid) -> Tensor:
        """Run all extractors."""
        for extractor in (self.extractor, *self.extra_extractors):
            c = extractor(c, grids, x, grid)
        return c


class ViTAdapter(nn.Module):
    """Four maps from an image and the blocks of an encoder.

    Args:
        dim: width of the encoder and of the maps.
        groups: four (first block, last block), within which nothing is exchanged.
        norm: (channels) -> normalisation layer.
        spatial_dim: channels of the first convolutions.
        num_heads: of deformable attention.
        num_points: on each level.
        value_ratio: width of its values, as a fraction of `dim`.
        ffn_ratio: width of the convolutional FFN, as a fraction of `dim`.
        drop_path_rate: of the convolutional FFN.
        with_cp: activation checkpointing of injectors and extractors.
        in_channels: of the images.
    """

    def __init__(
        self,
        dim: int,
        groups: Sequence[tuple[int, int]],
        norm: Norm,
        spatial_dim: int,
        num_heads: int,
        num_points: int,
        value_ratio: float,
        ffn_ratio: float,
        drop_path_rate: float,
        with_cp: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.groups = groups
        self.with_cp = with_cp
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        self.spatial_prior = SpatialPrior(dim, spatial_dim, norm, in_channels)
        attention = (dim, num_heads, num_points, value_ratio)
        last = len(groups) - 1
        self.interactions = nn.ModuleList(
            Interaction(
                Injector(*attention),
                *(
                    Extractor(*attention, ffn_ratio, drop_path_rate)
                    for _ in range(3 if i == last else 1)
                ),
            )
            for i in range(len(groups))
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (norm(dim) for _ in range(4))
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        """Initialise as the official code does; deformable attention initialises itself."""
        nn.init.normal_(self.level_embed)
        for module in self.modules():
            if isinstance(module, ConvFFN):
                for linear in (module.fc1, module.fc2):
                    nn.init.trunc_normal_(linear.weight, std=0.02)
                    nn.init.zeros_(linear.bias)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, images_B3HW: Tensor, x_BLD: Tensor, run: Callable[[Tensor, int, int], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the encoder, exchanging between its groups of blocks.

        Args:
            images_B3HW: sides are multiples of 32.
            x_BLD: the encoder's tokens of these images, CLS first.
            run: (x, start, stop) -> x, runs blocks start to stop - 1.

        Returns:
            maps of strides 4, 8, 16 and 32 with D channels.
        """
        c1, *pyramid = self.spatial_prior(images_B3HW)
        grids = tuple(tuple(level.shape[-2:]) for level in pyramid)
        grid = grids[1]
        c = torch.cat(
            [
                level.flatten(2).transpose(1, 2) + embed
                for level, embed in zip(pyramid, self.level_embed, strict=True)
            ],
            1,
        )
        call: Callable[..., Tensor] = (
            activation_checkpoint if self.with_cp else lambda function, *inputs: function(*inputs)
        )
        cls, x = x_BLD[:, :1], x_BLD[:, 1:]
        features = []
        for interaction, (first, last) in zip(self.interactions, self.groups, strict=True):
            x = call(interaction.injector, x, grid, c, grids)
            tokens = run(torch.cat([cls, x], 1), first, last + 1)
            cls, x = tokens[:, :1], tokens[:, 1:]
            c = call(interaction.extract, c, grids, x, grid)
            features.append(x.transpose(1, 2).unflatten(2, grid))

        levels = c.split([rows * columns for rows, columns in grids], 1)
        c2, c3, c4 = (
            level.transpose(1, 2).unflatten(2, grid)
            for level, grid in zip(levels, grids, strict=True)
        )
        maps = (self.up(c2) + c1, c2, c3, c4)
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return tuple(
            norm(own + _resized(feature, own.shape[-2:]))
            for norm, own, feature in zip(norms, maps, features, strict=True)
        )


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
