"""Tokens: what a modality adapter gives to the encoder.

Shapes: B batch, L tokens, P kept tokens, D width, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.layers.relative_position_bias import GridBias

Bias = Callable[[int, torch.dtype], Tensor | GridBias]


@dataclass
class Tokens:
    """A batch of sequences, CLS first, with the means to bias attention between their tokens.

    Attributes:
        x_BLD: embeddings with positions added; padded ones are zero.
        lengths: modality -> number of its tokens, in the order they stand in the sequence.
        bias: (index of a block, dtype) -> (1 or B, H, L, L) additive attention bias, or the bias
            of a grid; or None.
        shared_bias: True if `bias` is the same for all blocks, so that it is asked for once.
        pad_BL: True where a token is padding: no token attends to it. None: there is no padding.
    """

    x_BLD: Tensor
    lengths: dict[str, int]
    bias: Bias | None = None
    shared_bias: bool = False
    pad_BL: Tensor | None = None

    @classmethod
    def of(
        cls,
        modality: str,
        x_BLD: Tensor,
        bias: Bias | None,
        shared_bias: bool,
        pad_BL: Tensor | None = None,
    ) -> "Tokens":
        """Tokens of one modality; a mask without padding is dropped, padded embeddings zeroed."""
        if pad_BL is not None:
            pad_BL = pad_BL if pad_BL.any() else None
        if pad_BL is not None:
            x_BLD = x_BLD.masked_fill(pad_BL[..., None], 0)
        return cls(x_BLD, {modality: x_BLD.shape[1]}, bias, shared_bias, pad_BL)

    def keep(self, keep_BP: Tensor | None) -> "Tokens":
        """Only the tokens of one modality at the given positions, as if the others were not there.

        Args:
            keep_BP: (B, P) int64, positions in rising order, CLS (0) included; shorter rows end
                with -1, which becomes padding. None keeps everything.
        """
        if keep_BP is None:
            return self
        keep_BP, pad_BP = kept_positions(keep_BP)
        if self.pad_BL is not None:
            pad_BP = pad_BP | self.pad_BL.gather(1, keep_BP)
        (modality,) = self.lengths
        x_BPD = gather_tokens(self.x_BLD, keep_BP)
        bias = self.bias and partial(kept_bias, self.bias, keep_BP)
        return Tokens.of(modality, x_BPD, bias, self.shared_bias, pad_BP)

    @staticmethod
    def join(parts: Sequence["Tokens"]) -> "Tokens":
        """One sequence of several modalities; there is no bias between modalities.

        Raises:
            ValueError: if the batches differ.
        """
        if len(parts) == 1:
            return parts[0]
        sizes = {name: len(part.x_BLD) for part in parts for name in part.lengths}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"modalities have different batch sizes: {sizes}. Pair them up.")
        lengths = {name: length for part in parts for name, length in part.lengths.items()}
        pad_BL = None
        if any(part.pad_BL is not None for part in parts):
            pads = (
                part.x_BLD.new_zeros(part.x_BLD.shape[:2], dtype=torch.bool)
                if part.pad_BL is None
                else part.pad_BL
                for part in parts
            )
            pad_BL = torch.cat(list(pads), 1)
        return Tokens(
            torch.cat([part.x_BLD for part in parts], 1),
            lengths,
            bias=partial(_joint_bias, parts) if any(part.bias for part in parts) else None,
            shared_bias=all(part.shared_bias or part.bias is None for part in parts),
            pad_BL=pad_BL,
        )

    def split(self, x_BLD: Tensor) -> dict[str, Tensor]:
        """Cut a sequence of this form into its modalities."""
        parts = x_BLD.split(list(self.lengths.values()), dim=1)
        return dict(zip(self.lengths, parts, strict=True))

    def masked_bias(self, block: int, dtype: torch.dtype) -> Tensor | GridBias | None:
        """The bias of a block with padded keys at minus infinity; None if there is neither."""
        bias = self.bias(block, dtype) if self.bias else None
        if self.pad_BL is None:
            return bias
        if bias is None:
            bias = torch.zeros((), dtype=dtype, device=self.x_BLD.device)
        return torch.where(self.pad_BL[:, None, None, :], -torch.inf, dense(bias))


def dense(bias: Tensor | GridBias | None) -> Tensor | None:
    """A bias as (1 or B, H, L, L), or None if there is none."""
    return bias.dense() if isinstance(bias, GridBias) else bias


def kept_positions(keep_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Positions that can be gathered, and where they are padding (-1, which become the last)."""
    pad_BP = keep_BP < 0
    return keep_BP.masked_fill(pad_BP, keep_BP.shape[1] - 1), pad_BP


def gather_tokens(x_BLD: Tensor, index_BP: Tensor) -> Tensor:
    """(B, L, D) at (B, P) -> (B, P, D)."""
    return x_BLD.gather(1, index_BP[..., None].expand(-1, -1, x_BLD.shape[-1]))


def kept_bias(bias: Bias, keep_BP: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """Rows and columns of a broadcast bias (1, H, L, L) at kept positions: (B, H, P, P)."""
    bias_HLL = dense(bias(block, dtype))[0]
    return bias_HLL[:, keep_BP[:, :, None], keep_BP[:, None, :]].transpose(0, 1)


def _joint_bias(parts: Sequence[Tokens], block: int, dtype: torch.dtype) -> Tensor:
    """Biases of the parts on the diagonal, zeros elsewhere."""
    total = sum(part.x_BLD.shape[1] for part in parts)
    biases = [dense(part.bias(block, dtype)) if part.bias else None for part in parts]
    like = next(bias for bias in biases if bias is not None)
    batch = max(len(bias) for bias in biases if bias is not None)
    rows, start = [], 0
    for part, bias in zip(parts, biases, strict=True):
        length = part.x_BLD.shape[1]
        if bias is None:
            bias = like.new_zeros(()).expand(1, like.shape[1], length, length)
        row = F.pad(bias, (start, total - start - length))
        rows.append(row.expand(batch, -1, -1, -1))
        start += length
    return torch.cat(rows, 2)
