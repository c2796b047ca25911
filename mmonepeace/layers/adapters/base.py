"""The base of modality adapters, which turn raw input into tokens.

Shapes: B batch, T tokens without CLS, L tokens (CLS first), P kept tokens, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmonepeace.layers.relative_position_bias import RelativePositionBias
from mmonepeace.layers.resampling import Grid
from mmonepeace.layers.tokens import BlockBias, Tokens, zero_padding
from mmonepeace.spec import LAYER_NORM_EPS, Arch

Shapes = Mapping[str, Sequence[int]]  # parameter -> its shape


class Adapter(nn.Module):
    """Base of all adapters: CLS, optional embedding norm and type vector.

    A subclass takes (modality, arch, num_tables) and its own options with defaults, and keeps its
    relative position bias in `rpb`; `infer_options` reads its options off a checkpoint. It turns
    inputs into `Tokens` in two steps, so that several views of the same inputs share the first:
    `features(*inputs)` does all that does not depend on which tokens are kept,
    `to_tokens(features, keep_BP, cpu_keep_BP)` the rest.

    Args:
        modality: key of the adapter, of its FFNs and of its final norm.
        arch: widths and variants.
        cls_token: whether CLS comes before the other tokens.
    """

    rpb: RelativePositionBias

    def __init__(self, modality: str, arch: Arch, cls_token: bool = True) -> None:
        super().__init__()
        dim = arch.embed_dim
        self.modality = modality
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        self.embed_norm = nn.LayerNorm(dim, LAYER_NORM_EPS) if arch.embed_norm else nn.Identity()
        self.type_embed = nn.Parameter(torch.zeros(1, 1, dim)) if arch.type_embed else None

    def forward(self, *inputs: Any, keep_BP: Tensor | None = None) -> Tokens:
        """Tokens of the inputs of `features`, those at the positions `keep_BP` or all."""
        return self.to_tokens(self.features(*inputs), keep_BP)

    def features(self, *inputs: Any) -> Any:
        """The part of the computation that all views of the inputs share, for `to_tokens`."""
        raise NotImplementedError

    def to_tokens(
        self, features: Any, keep_BP: Tensor | None = None, cpu_keep_BP: np.ndarray | None = None
    ) -> Tokens:
        """Tokens of what `features` returns (here, all tokens): those kept, see `Tokens.keep`, or all."""
        return features if keep_BP is None else features.keep(keep_BP, cpu_keep_BP)

    def reset_positions(self) -> None:
        """Replace the random initial positions, if the adapter has others."""

    def metadata(self) -> dict[str, str]:
        """What a checkpoint must say besides the weights; keys begin with the modality's name."""
        return {}

    def adopt_metadata(self, meta: Mapping[str, Any]) -> None:
        """Follow the metadata of a checkpoint that is being loaded."""

    @staticmethod
    def infer_options(shapes: Shapes, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor, read off a checkpoint; others keep their defaults.

        Args:
            shapes: parameter of the adapter, such as "rpb.tables.0" -> its shape.
            meta: metadata of the checkpoint, see `metadata`.
        """
        return {}

    def assemble(
        self,
        x_BTD: Tensor,
        positions: Tensor,
        bias: BlockBias,
        pad_BT: Tensor | None = None,
        grid: Grid | None = None,
        cpu_pad_BT: np.ndarray | None = None,
    ) -> Tokens:
        """Prepend CLS, apply the norm, add positions and type.

        Args:
            x_BTD: features without CLS.
            positions: (L, D) or (B, L, D), CLS first.
            bias: of each block, see `Tokens`.
            pad_BT: True where a feature is padding.
            grid: of the features, see `Tokens`.
            cpu_pad_BT: `pad_BT` for the CPU, see `Tokens`.
        """
        x, pad_BL, cpu_pad_BL = x_BTD, pad_BT, cpu_pad_BT
        if self.cls_token is None:
            positions = positions[..., 1:, :]
        else:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
            pad_BL = None if pad_BT is None else F.pad(pad_BT, (1, 0))
            if cpu_pad_BT is not None:
                cpu_pad_BL = np.pad(cpu_pad_BT, ((0, 0), (1, 0)))
        x = self.embed_norm(x) + positions
        if self.type_embed is not None:
            x = x + self.type_embed
        if pad_BL is not None:
            x, pad_BL = zero_padding(x, pad_BL)
        shared = len(self.rpb.tables) == 1
        lengths = {self.modality: x.shape[1]}
        return Tokens(x, lengths, bias, shared, pad_BL, grid, cpu_pad_BL)
