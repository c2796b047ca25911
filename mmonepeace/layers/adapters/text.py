"""Text: token ids to tokens.

Shapes: B batch, T text tokens, L = T + 1 tokens, D width.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmonepeace.layers.adapters.base import Adapter, Shapes
from mmonepeace.layers.relative_position_bias import RelativePositionBias1D
from mmonepeace.layers.tokens import Tokens
from mmonepeace.spec import PAD_ID, TEXT_POSITIONS, TEXT_RPB_BUCKETS, VOCAB_SIZE, Arch


class TextAdapter(Adapter):
    """Token ids to tokens with learned positions and 1-D relative position bias.

    Args:
        modality: see `Adapter`.
        arch: widths and variants.
        num_tables: RPB tables, 1 or one per block.
        vocab_size: rows of the embedding table.
        num_positions: rows of the position table, CLS included: the longest sequence.
        num_buckets: see `rpb_rows_1d`.
    """

    def __init__(
        self,
        modality: str,
        arch: Arch,
        num_tables: int,
        vocab_size: int = VOCAB_SIZE,
        num_positions: int = TEXT_POSITIONS,
        num_buckets: int = TEXT_RPB_BUCKETS,
    ) -> None:
        super().__init__(modality, arch)
        self.embed_tokens = nn.Embedding(vocab_size, arch.embed_dim, PAD_ID)
        self.pos_embed = nn.Parameter(torch.zeros(num_positions, arch.embed_dim))
        self.rpb = RelativePositionBias1D(num_buckets, arch.num_heads, num_tables)

    def features(self, ids_BT: Tensor, cpu_pad_BT: np.ndarray | None = None) -> Tokens:
        """Embed token ids.

        Args:
            ids_BT: (B, T) integers, each row closed with `spec.EOS_ID` and padded on the right
                with `spec.PAD_ID`.
            cpu_pad_BT: (B, T), True where `ids_BT` is padding, for the CPU: see `Tokens`.

        Returns:
            Tokens with L = T + 1.

        Raises:
            ValueError: if the ids are not (B, T) integers, or too many.
        """
        if ids_BT.ndim != 2 or ids_BT.is_floating_point() or 0 in ids_BT.shape:
            raise ValueError(
                f"token ids have shape {tuple(ids_BT.shape)} and dtype {ids_BT.dtype}, expected "
                "(batch, tokens) integers. Make them with Tokenizer.encode, and never cast them."
            )
        length = ids_BT.shape[1] + 1
        if length > len(self.pos_embed):
            raise ValueError(
                f"text has {length - 1} tokens, the limit of this model is "
                f"{len(self.pos_embed) - 1}, one below its num_positions. Truncate in "
                "Tokenize(max_length=...)."
            )
        return self.assemble(
            self.embed_tokens(ids_BT),
            self.pos_embed[:length],
            partial(self.rpb, length),
            pad_BT=ids_BT == PAD_ID,
            cpu_pad_BT=cpu_pad_BT,
        )

    @staticmethod
    def infer_options(shapes: Shapes, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Sizes of the vocabulary and of the tables."""
        return dict(
            vocab_size=shapes["embed_tokens.weight"][0],
            num_positions=shapes["pos_embed"][0],
            num_buckets=shapes["rpb.tables.0"][0] // 2 - 1,
        )
