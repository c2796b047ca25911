"""Tokens: the output of a modality adapter and the input of the encoder.

Shapes: B batch, L tokens, P kept tokens, D width, H heads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias, PaddedBias
from mmonepeace.layers.resampling import Grid
from mmonepeace.layers.tracing import is_traced

# (index of a block, dtype that attention runs in) -> the bias of its attention.
BlockBias = Callable[[int, torch.dtype], AttentionBias]


def no_bias(_block: int, _dtype: torch.dtype) -> DenseBias:
    """The `BlockBias` of tokens without relative positions."""
    return DenseBias()


@dataclass
class Tokens:
    """A batch of sequences, CLS first, with the bias of attention between their tokens.

    Attributes:
        x_BLD: embeddings with positions added; padded ones are zero.
        lengths: modality -> number of its tokens, in the order of the sequence.
        bias: of each block, without padding: see `masked_bias`.
        shared_bias: True if `bias` is the same for all blocks, so that it is computed once.
        pad_BL: True where a token is padding: no token attends to it. None: there is no padding.
        grid: rows and columns of the tokens after CLS, if they are all patches of an image.
        cpu_pad_BL: `pad_BL` for the CPU, which would wait for a GPU's. None: not known. An array: what
            moves the tensors of a batch to a GPU leaves it where it is.
    """

    x_BLD: Tensor
    lengths: dict[str, int]
    bias: BlockBias = no_bias
    shared_bias: bool = False
    pad_BL: Tensor | None = None
    grid: Grid | None = None
    cpu_pad_BL: np.ndarray | None = None

    @property
    def known_pad_BL(self) -> np.ndarray | None:
        """`pad_BL` as an array, without waiting for a GPU; None: unknown, or there is no padding.

        Raises:
            ValueError: if `cpu_pad_BL` has another shape.
        """
        if self.pad_BL is None:
            return None
        if self.pad_BL.device.type == "cpu":
            return self.pad_BL.numpy()
        if self.cpu_pad_BL is not None and self.cpu_pad_BL.shape != self.pad_BL.shape:
            raise ValueError(
                f"the padding mask has shape {tuple(self.pad_BL.shape)}, that for the CPU "
                f"{self.cpu_pad_BL.shape}; expected the same mask twice. Take both from "
                "MultimodalDataPreprocessor, or leave the latter out."
            )
        return self.cpu_pad_BL

    @property
    def knows_padding(self) -> bool:
        """Whether the CPU knows what is padding, without waiting for a GPU."""
        return self.pad_BL is None or self.known_pad_BL is not None

    def keep(self, keep_BP: Tensor, cpu_keep_BP: np.ndarray | None = None) -> "Tokens":
        """Only the tokens of one modality at the given positions, as if there were no others.

        Args:
            keep_BP: (B, P) int64, positions in ascending order, CLS (0) included; shorter rows end
                with -1, which becomes padding.
            cpu_keep_BP: the same for the CPU, see `cpu_pad_BL`.
        """
        keep_BP, pad_BP = kept_positions(keep_BP)
        cpu_pad_BP = kept_cpu_padding(self.pad_BL, self.cpu_pad_BL, cpu_keep_BP)
        if self.pad_BL is not None:
            pad_BP = pad_BP | self.pad_BL.gather(1, keep_BP)
        x_BPD = gather_tokens(self.x_BLD, keep_BP)
        lengths = dict.fromkeys(self.lengths, keep_BP.shape[1])
        bias = self.bias if self.bias is no_bias else partial(kept_bias, self.bias, keep_BP)
        x_BPD, pad_BP = zero_padding(x_BPD, pad_BP)
        return Tokens(x_BPD, lengths, bias, self.shared_bias, pad_BP, cpu_pad_BL=cpu_pad_BP)

    def repeat(self, times: int) -> "Tokens":
        """Each sample `times` times in a row; of one modality, whose bias broadcasts."""
        if times == 1:
            return self
        pad_BL = None if self.pad_BL is None else self.pad_BL.repeat_interleave(times, 0)
        x_BLD, cpu_pad_BL = self.x_BLD.repeat_interleave(times, 0), self.cpu_pad_BL
        if cpu_pad_BL is not None:
            cpu_pad_BL = cpu_pad_BL.repeat(times, 0)
        return replace(self, x_BLD=x_BLD, pad_BL=pad_BL, cpu_pad_BL=cpu_pad_BL)

    @staticmethod
    def join(views: Sequence["Tokens"]) -> "Tokens":
        """One sequence of several modalities; there is no bias between modalities.

        Raises:
            ValueError: if the batches differ.
        """
        if len(views) == 1:
            return views[0]
        # Not len(), nor a set: an exporter would keep the batch that it traces.
        if any(view.x_BLD.shape[0] != views[0].x_BLD.shape[0] for view in views):
            sizes = {name: len(view.x_BLD) for view in views for name in view.lengths}
            raise ValueError(f"modalities have different batch sizes: {sizes}. Pair them up.")
        pad_BL = None
        if any(view.pad_BL is not None for view in views):
            none = views[0].x_BLD.new_zeros((), dtype=torch.bool)
            pads = (
                none.expand(view.x_BLD.shape[:2]) if view.pad_BL is None else view.pad_BL
                for view in views
            )
            pad_BL = torch.cat(list(pads), 1)
        biased = [view for view in views if view.bias is not no_bias]
        return Tokens(
            torch.cat([view.x_BLD for view in views], 1),
            {name: length for view in views for name, length in view.lengths.items()},
            bias=partial(_joint_bias, views) if biased else no_bias,
            shared_bias=all(view.shared_bias for view in biased),
            pad_BL=pad_BL,
            cpu_pad_BL=_joint_cpu_padding(views),
        )

    def masked_bias(self, block: int, dtype: torch.dtype) -> AttentionBias:
        """The bias of a block with minus infinity for padded keys."""
        bias = self.bias(block, dtype)
        if self.pad_BL is None:
            return bias
        if bias.grid is None and bias.dense() is None:
            zero = torch.zeros((), dtype=dtype, device=self.x_BLD.device)
            return DenseBias(torch.where(self.pad_BL[:, None, None, :], -torch.inf, zero))
        padded = PaddedBias(bias, self.pad_BL)
        # A CPU masks it once for all blocks that share it.
        return DenseBias(padded.dense()) if self.pad_BL.device.type == "cpu" else padded

    def split(self, x_BLD: Tensor) -> dict[str, Tensor]:
        """Split a sequence of this form into its modalities."""
        views = x_BLD.split(list(self.lengths.values()), dim=1)
        return dict(zip(self.lengths, views, strict=True))


def zero_padding(x_BLD: Tensor, pad_BL: Tensor) -> tuple[Tensor, Tensor | None]:
    """Embeddings with zeros for padding, and the mask; on a CPU, None instead of a mask without padding.

    A GPU would have to tell, and what follows would wait for it; a graph is for batches with padding.
    """
    if pad_BL.device.type == "cpu" and not is_traced() and not pad_BL.any():
        return x_BLD, None
    return x_BLD.masked_fill(pad_BL[..., None], 0), pad_BL


def kept_positions(keep_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Positions that can be gathered, and where they are padding (-1, which become the last)."""
    pad_BP = keep_BP < 0
    return keep_BP.masked_fill(pad_BP, keep_BP.shape[1] - 1), pad_BP


def kept_cpu_padding(
    pad_BL: Tensor | None, cpu_pad_BL: np.ndarray | None, cpu_keep_BP: np.ndarray | None
) -> np.ndarray | None:
    """What is padding at the positions kept (negative ones are), for the CPU; None: not known."""
    if cpu_keep_BP is None or (pad_BL is not None and cpu_pad_BL is None):
        return None
    pad_BP = cpu_keep_BP < 0
    if cpu_pad_BL is None:
        return pad_BP
    return pad_BP | np.take_along_axis(cpu_pad_BL, np.where(pad_BP, 0, cpu_keep_BP), 1)


def gather_tokens(x_BLD: Tensor, index_BP: Tensor) -> Tensor:
    """(B, L, D) at (B, P) -> (B, P, D)."""
    return x_BLD.gather(1, index_BP[..., None].expand(-1, -1, x_BLD.shape[-1]))


def kept_bias(bias: BlockBias, keep_BP: Tensor, block: int, dtype: torch.dtype) -> DenseBias:
    """Rows and columns of a bias that broadcasts, (1, H, L, L), at kept positions: (B, H, P, P)."""
    bias_HLL = bias(block, dtype).dense()[0]  # type: ignore[index]  # adapters have a bias
    return DenseBias(bias_HLL[:, keep_BP[:, :, None], keep_BP[:, None, :]].transpose(0, 1))


def _joint_cpu_padding(views: Sequence[Tokens]) -> np.ndarray | None:
    """`cpu_pad_BL` of joined modalities."""
    if any(view.pad_BL is not None and view.cpu_pad_BL is None for view in views):
        return None
    each = (
        np.zeros(view.x_BLD.shape[:2], bool) if view.cpu_pad_BL is None else view.cpu_pad_BL
        for view in views
    )
    return np.concatenate(list(each), 1)


def _joint_bias(views: Sequence[Tokens], block: int, dtype: torch.dtype) -> DenseBias:
    """Biases of the modalities on the diagonal, zeros elsewhere."""
    total = sum(view.x_BLD.shape[1] for view in views)
    biases = [view.bias(block, dtype).dense() for view in views]
    like = next(bias for bias in biases if bias is not None)
    batch = max(len(bias) for bias in biases if bias is not None)
    rows, start = [], 0
    for view, bias in zip(views, biases, strict=True):
        length = view.x_BLD.shape[1]
        if bias is None:
            bias = like.new_zeros(()).expand(1, like.shape[1], length, length)
        row = F.pad(bias, (start, total - start - length))
        rows.append(row.expand(batch, -1, -1, -1))
        start += length
    return DenseBias(torch.cat(rows, 2))
