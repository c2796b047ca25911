"""The backbone of detectors: window attention with a few global blocks, no CLS.

Shapes: B batch, D width.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias
from mmonepeace.layers.resampling import Grid
from mmonepeace.layers.window_attention import GridAttention
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.registry import MODELS
from mmonepeace.spec import PATCH_SIZE, PRETRAIN_IMG_SIZE, Arch, get_arch


@MMENGINE_MODELS.register_module()  # `OnePeaceViTDet` from any MM library, once imported
@MODELS.register_module()
class OnePeaceViTDet(OnePeace):
    """`OnePeace` for detection on large images of any height and width.

    Most blocks attend within windows, some globally. Relative position bias is resampled bicubically,
    not geometrically, and blocks add their own decomposed relative positions, as in ViTDet.

    Args:
        arch: see `OnePeace`.
        img_size: side in pixels of the square image whose grid the absolute positions, and the
            decomposed relative positions of global blocks, are kept for.
        rpb: "shared", one table of the pretraining grid for all blocks, as in the official
            detector; "per_block", one per block, for its window or for the pretraining grid.
        window_size: side of a window, in patches.
        global_blocks: blocks with global attention; None: every fourth, as in the official recipe.
        decomposed: whether blocks have decomposed relative positions.
        kwargs: see `OnePeace`, except `modalities` and `out_type`.

    Source: ViTDet, arXiv 2203.16527, and the official ONE-PEACE detector.
    """

    allow_missing = (r"layers\.\d+\.attn\.rel_pos_[hw]$",)

    def __init__(
        self,
        arch: str | dict[str, Any] | Arch = "giant",
        img_size: int = 1280,
        rpb: Literal["shared", "per_block"] = "shared",
        window_size: int = 16,
        global_blocks: Sequence[int] | None = None,
        decomposed: bool = True,
        **kwargs: Any,
    ) -> None:
        depth = get_arch(arch).depth
        chosen = range(3, depth, 4) if global_blocks is None else global_blocks
        if window_size < 1 or any(not 0 <= block < depth for block in chosen):
            raise ValueError(
                f"window_size is {window_size} and global_blocks are {list(chosen)}; expected a "
                f"positive side and blocks from 0 to {depth - 1}."
            )
        # Set before the parent class builds the layers, which read them.
        self.windows = [None if block in chosen else window_size for block in range(depth)]
        self.grid_sides = [window or img_size // PATCH_SIZE for window in self.windows]
        self.decomposed = decomposed
        side = PRETRAIN_IMG_SIZE // PATCH_SIZE
        sides = [window or side for window in self.windows] if rpb == "per_block" else [side]
        image = {"cls_token": False, "rpb_sides": sides, "rpb_resampling": "bicubic"}
        super().__init__(arch, {"image": image}, img_size, rpb, **kwargs)

    def build_attention(self, block: int) -> GridAttention:
        """Attention on maps of patches, in windows or global."""
        side = self.grid_sides[block] if self.decomposed else None
        return GridAttention(self.arch, self.windows[block], side)

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images of any one size, (B, 3, H, W) RGB, normalised as in `spec`.

        Returns one (B, D, ceil(H / 16), ceil(W / 16)) for each of `out_indices`, after the maps of
        the stem, if any, see `OnePeace.forward`.
        """
        tokens, stem_maps = self._embed_images(images_B3HW)
        assert tokens.grid is not None  # they are patches
        maps = replace(
            tokens,
            x_BLD=tokens.x_BLD.unflatten(1, tokens.grid),  # (B, h, w, D), for GridAttention
            bias=partial(self._bias, tokens.grid),
            shared_bias=False,  # windows and entire maps differ
        )
        outputs = self.layers(maps, self.out_indices)
        self._normalise_last(outputs)
        # Convolutions of other necks would keep channels last, see `SimpleFeaturePyramid`.
        return tuple(
            x.contiguous() for x in (*stem_maps, *(x.permute(0, 3, 1, 2) for x in outputs))
        )

    def _bias(self, grid: Grid, block: int, dtype: torch.dtype) -> AttentionBias:
        rpb, window = self.adapters["image"].rpb, self.windows[block]
        if window is None:
            return rpb(grid, block, dtype)
        # Windows are short, and padding may mask some of their keys.
        return DenseBias(rpb((window, window), block, dtype).dense())
