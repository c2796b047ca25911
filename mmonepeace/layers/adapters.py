"""Modality adapters: raw input to tokens. One class and one entry of `ADAPTERS` per modality.

Shapes: B batch, L tokens (CLS first), D width.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.position import RelativePositionBias2D, resample_pos_embed
from mmonepeace.layers.tokens import Tokens
from mmonepeace.spec import LAYER_NORM_EPS, PATCH_SIZE, Arch, patch_grid


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _hmlp_stem(dim: int) -> nn.Sequential:
    """Patches through three non-overlapping convolutions: they never exchange information."""
    return nn.Sequential(
        nn.Conv2d(3, dim // 4, 4, stride=4),
        ChannelNorm(dim // 4, LAYER_NORM_EPS),
        nn.GELU(),
        nn.Conv2d(dim // 4, dim // 4, 2, stride=2),
        ChannelNorm(dim // 4, LAYER_NORM_EPS),
        nn.GELU(),
        nn.Conv2d(dim // 4, dim, 2, stride=2),
    )


class ImageAdapter(nn.Module):
    """Image to patch tokens with learned positions and 2-D relative position bias.

    Args:
        arch: widths and variants.
        side: side of the square grid that positions and tables are kept for, in patches.
        num_tables: RPB tables, 1 or one per block.
    """

    def __init__(self, arch: Arch, side: int, num_tables: int) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.stem = (
            _hmlp_stem(dim)
            if arch.stem == "hmlp"
            else nn.Conv2d(3, dim, PATCH_SIZE, stride=PATCH_SIZE, bias=False)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(side**2 + 1, dim))
        self.embed_norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.embed_norm else nn.Identity()
        self.type_embed = nn.Parameter(torch.zeros(1, 1, dim)) if arch.type_embed else None
        self.rpb = RelativePositionBias2D(side, arch.num_heads, num_tables)

    def forward(self, images_B3HW: Tensor) -> Tokens:
        """Embed images of any one size.

        Sides that are no multiple of 16 are padded at the right and bottom with zeros, which is
        the mean colour of a normalised image.

        Args:
            images_B3HW: (B, 3, H, W), RGB, normalised with `spec.IMAGE_MEAN`, `spec.IMAGE_STD`.

        Returns:
            Tokens with L = ceil(H / 16) * ceil(W / 16) + 1.

        Raises:
            ValueError: if the input is not (B, 3, H, W).
        """
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3 or 0 in images_B3HW.shape:
            raise ValueError(
                f"images have shape {tuple(images_B3HW.shape)}, expected (batch, 3, height, "
                "width). Add the batch dimension, convert grey or RGBA pictures to RGB."
            )
        height, width = images_B3HW.shape[-2:]
        grid = patch_grid(height, width)
        pad = (0, grid[1] * PATCH_SIZE - width, 0, grid[0] * PATCH_SIZE - height)
        if any(pad):
            images_B3HW = F.pad(images_B3HW, pad)
        patches = self.stem(images_B3HW).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        x = self.embed_norm(x) + resample_pos_embed(self.pos_embed, grid)
        if self.type_embed is not None:
            x = x + self.type_embed
        return Tokens(
            x,
            {"image": x.shape[1]},
            bias=partial(self.rpb, grid),
            shared_bias=len(self.rpb.tables) == 1,
        )


ADAPTERS: dict[str, type[nn.Module]] = {"image": ImageAdapter}
