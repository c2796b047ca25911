"""The light decoder of pretraining: from kept tokens to features of complete sequences.

Shapes: B batch, L tokens (CLS first), P kept tokens, E width of the encoder, D of the decoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmonepeace.layers.encoder import FusionEncoder
from mmonepeace.layers.resampling import Grid, resample_pos_embed
from mmonepeace.layers.tokens import Tokens, zero_padding
from mmonepeace.spec import LAYER_NORM_EPS, Arch


class DecoderAdapter(nn.Module):
    """Learned positions of one modality: `num_positions` rows, CLS included, of width `dim`."""

    def __init__(self, dim: int, num_positions: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(num_positions, dim))

    def forward(self, length: int, grid: Grid | None) -> Tensor:
        """(L, D) positions of a sequence, or of the grid of an image.

        Raises:
            ValueError: if the sequence is longer than the table.
        """
        if grid is not None:
            return resample_pos_embed(self.pos_embed, grid)
        if length > len(self.pos_embed):
            raise ValueError(
                f"a sequence of {length} tokens exceeds the {len(self.pos_embed)} positions of the "
                "decoder. Truncate it where it is loaded."
            )
        return self.pos_embed[:length]


class Decoder(nn.Module):
    """A small Transformer without relative positions.

    Args:
        arch: its widths.
        num_positions: modality -> rows of its position table.
        layer_scale_init: initial LayerScale; None leaves it out, as the released recipes do.
        mask_padding: padded tokens are hidden from attention. The official decoder sees them (as
            zeros), so that its outputs depend on the padded length of the batch.
        with_cp: see `FusionEncoder`.
    """

    def __init__(
        self,
        arch: Arch,
        num_positions: Mapping[str, int],
        layer_scale_init: float | None = None,
        mask_padding: bool = True,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.adapters = nn.ModuleDict(
            {name: DecoderAdapter(arch.embed_dim, rows) for name, rows in num_positions.items()}
        )
        self.layers = FusionEncoder(
            arch, num_positions, layer_scale_init=layer_scale_init, with_cp=with_cp
        )
        self.norms = nn.ModuleDict(
            {name: nn.LayerNorm(arch.embed_dim, LAYER_NORM_EPS) for name in num_positions}
        )

    def forward(
        self,
        views: Sequence[Mapping[str, Tensor]],
        complete: Mapping[str, Tokens],
    ) -> list[dict[str, Tensor]]:
        """Decode batches of one or more modalities.

        Args:
            views: modality -> (B, L, D), in the order of a joint sequence, for each batch.
            complete: modality -> tokens with the grid and the padding of the sequences.
        """
        tokens = [self._join(view, complete) for view in views]
        return [
            {name: self.norms[name](x) for name, x in joint.split(out).items()}
            for joint, out in zip(tokens, self.layers.encode_packed(tokens), strict=True)
        ]

    def _join(self, view: Mapping[str, Tensor], complete: Mapping[str, Tokens]) -> Tokens:
        modalities = []
        for name, x in view.items():
            like, length = complete[name], x.shape[1]
            x, pad = x + self.adapters[name](length, like.grid), like.pad_BL
            if pad is not None:
                x, pad = zero_padding(x, pad)
            masks: Any = {"pad_BL": pad, "cpu_pad_BL": like.cpu_pad_BL}
            modalities.append(Tokens(x, {name: length}, shared_bias=True, **masks))
        tokens = Tokens.join(modalities)
        if not self.mask_padding:
            tokens.pad_BL = None
        return tokens


def insert_mask_tokens(x_BPD: Tensor, keep_BP: Tensor, length: int, mask_1D: Tensor) -> Tensor:
    """Put kept tokens back at their positions and mask tokens at all others: (B, length, D).

    Args:
        x_BPD: kept tokens.
        keep_BP: their positions; -1 is padding, which is dropped.
        length: tokens of the complete sequence.
        mask_1D: the mask token.
    """
    # Padding is written past the end and cut off.
    index = keep_BP.masked_fill(keep_BP < 0, length)[..., None].expand_as(x_BPD)
    x_BLD = mask_1D.to(x_BPD.dtype).expand(len(x_BPD), length + 1, -1)
    return x_BLD.scatter(1, index, x_BPD)[:, :length]
