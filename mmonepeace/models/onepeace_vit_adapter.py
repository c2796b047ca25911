"""The backbone with a ViT-Adapter: four scales for dense prediction.

Shapes: B batch, D width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from mmonepeace.layers.vit_adapter import ViTAdapter
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.registry import MODELS

_COARSEST = 32  # stride of the coarsest map


@MMENGINE_MODELS.register_module()  # `OnePeaceViTAdapter` from any MM library, once imported
@MODELS.register_module()
class OnePeaceViTAdapter(OnePeace):
    """`OnePeace` that returns maps of strides 4, 8, 16 and 32, for images of any height and width.

    Args:
        arch: see `OnePeace`.
        interaction_indexes: four (first block, last block); maps and tokens interact before and
            after each group of blocks. None: four groups of equal size.
        spatial_dim: channels of the convolutional stem.
        deform_heads: heads of deformable attention; None: as many as the encoder's.
        deform_points: sampling points per head and level.
        deform_ratio: width of the values, relative to the encoder's.
        ffn_ratio: width of the convolutional FFN, relative to the encoder's.
        norm_cfg: of the convolutions; use BN when training on a CPU.
        drop_path_rate: see `OnePeace`; also of the adapter's FFNs.
        kwargs: see `OnePeace`, but for `out_indices`, `out_type`, `stem_maps` and `final_norm`.

    Raises:
        ValueError: for groups that are not consecutive from the first block to the last.
    """

    allow_missing = ("vit_adapter\\.",)

    def __init__(
        self,
        arch: str | dict[str, Any] = "giant",
        interaction_indexes: Sequence[Sequence[int]] | None = None,
        spatial_dim: int = 64,
        deform_heads: int | None = None,
        deform_points: int = 4,
        deform_ratio: float = 0.5,
        ffn_ratio: float = 0.25,
        norm_cfg: dict[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(arch, drop_path_rate=drop_path_rate, **kwargs)
        norm_cfg = norm_cfg or {"type": "SyncBN"}
        self.vit_adapter = ViTAdapter(
            self.arch.embed_dim,
            _groups(interaction_indexes, self.arch.depth),
            lambda channels: build_norm_layer(norm_cfg, channels)[1],
            spatial_dim,
            deform_heads or self.arch.num_heads,
            deform_points,
            deform_ratio,
            ffn_ratio,
            drop_path_rate,
            self.layers.with_cp,
            self.adapters["image"].in_channels,
        )

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images of any one size, (B, 3, H, W) RGB, normalised as in `spec`.

        Returns (B, D, ceil(H / s), ceil(W / s)) for s = 4, 8, 16, 32.
        """
        height, width = images_B3HW.shape[-2:]
        padded = F.pad(images_B3HW, (0, -width % _COARSEST, 0, -height % _COARSEST))
        tokens = self.adapters["image"](padded)
        maps = self.vit_adapter(padded, tokens.x_BLD, self.layers.bind(tokens))
        # Cells that are all padding would shift what heads resize to the image.
        return tuple(
            x[..., : -(-height // stride), : -(-width // stride)]
            for x, stride in zip(maps, (4, 8, 16, 32), strict=True)
        )


def _groups(indexes: Sequence[Sequence[int]] | None, depth: int) -> list[tuple[int, int]]:
    """Four consecutive groups of blocks."""
    if indexes is None:
        cuts = [depth * i // 4 for i in range(5)]
        indexes = [(start, stop - 1) for start, stop in pairwise(cuts)]
    groups = [(first, last) for first, last in indexes]
    blocks = [block for first, last in groups for block in range(first, last + 1)]
    if len(groups) != 4 or blocks != list(range(depth)) or any(a > b for a, b in groups):
        raise ValueError(
            f"interaction_indexes are {groups}; expected four (first block, last block) that "
            f"cover the {depth} blocks in order."
        )
    return groups
