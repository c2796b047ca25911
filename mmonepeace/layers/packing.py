"""Packing: sequences concatenated along one batch item, so that no padding is computed.

Shapes: B batch, L tokens, N tokens of all sequences, D width, H heads, d = D / H.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from mmonepeace.layers.indices import index_for
from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias
from mmonepeace.layers.tokens import Tokens

# Width times padded tokens squared up to which, on a CPU, one attention call for a padded batch is
# faster than a call for each sequence, which costs half a millisecond in training (benchmarks/ideas.md).
MAX_PADDED_WORK = 2**20


@dataclass(frozen=True)
class RealTokens:
    """The tokens of a padded batch that are not padding.

    Attributes:
        pad_BL: True where a token is padding.
        index_N: places of the real ones in the flattened batch, on its device.
    """

    pad_BL: np.ndarray
    index_N: Tensor

    @staticmethod
    def of(pad_BL: np.ndarray, x: Tensor) -> "RealTokens":
        """Those of a mask, for batches on the device of `x`."""
        return RealTokens(pad_BL, index_for(x, np.flatnonzero(~pad_BL)))

    def select(self, samples: Sequence[int]) -> "RealTokens":
        """Those of some of the sequences."""
        return RealTokens.of(self.pad_BL[samples], self.index_N)


@dataclass(frozen=True)
class PackedGroup:
    """Sequences whose attention is computed in one call.

    Attributes:
        bias: of the padded batch, with minus infinity for padded keys.
        lengths: for each sequence, modality -> number of its tokens, in the order of the sequence.
        real: what is not padding; None: there is no padding.
    """

    bias: AttentionBias
    lengths: Sequence[Mapping[str, int]]
    real: RealTokens | None = None

    @property
    def counts(self) -> list[int]:
        """Tokens of each sequence."""
        return [sum(lengths.values()) for lengths in self.lengths]

    def select(self, samples: Sequence[int]) -> "PackedGroup":
        """Some of the sequences."""
        lengths = [self.lengths[i] for i in samples]
        real = None if self.real is None else self.real.select(samples)
        return PackedGroup(self.bias.select(samples), lengths, real)

    def unpack(self, x_1HNd: Tensor) -> Tensor:
        """Concatenated sequences as a padded batch, (B, H, L, d)."""
        x = _unpack(x_1HNd[0].transpose(0, 1), len(self.lengths), self.real)
        return x.transpose(1, 2)

    def pack(self, x_BHLd: Tensor) -> Tensor:
        """Undo `unpack`, (1, N, H, d)."""
        return _pack(x_BHLd.transpose(1, 2), self.real)[None]


@dataclass(frozen=True)
class PackedBias(AttentionBias):
    """The bias of concatenated sequences, which do not attend to each other."""

    groups: Sequence[PackedGroup]
    grid = None
    is_packed = True
    is_grouped = True

    @property
    def counts(self) -> list[int]:
        """Tokens of each sequence."""
        return [count for group in self.groups for count in group.counts]

    def segments(self, samples: Sequence[int] | None = None) -> list[tuple[str, int]]:
        """(modality, tokens) of each contiguous run of one modality, in some of the sequences or all."""
        lengths = [one for group in self.groups for one in group.lengths]
        chosen = lengths if samples is None else [lengths[i] for i in samples]
        each = (item for one in chosen for item in one.items())
        return [
            (name, sum(n for _, n in run)) for name, run in itertools.groupby(each, itemgetter(0))
        ]

    def select(self, samples: Sequence[int]) -> "PackedBias":
        groups, start = [], 0
        for group in self.groups:
            stop = start + len(group.lengths)
            chosen = [i - start for i in samples if start <= i < stop]
            if chosen:
                groups.append(group.select(chosen))
            start = stop
        return PackedBias(groups)

    def attend_groups(
        self, attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *options: object
    ) -> Tensor:
        """Attention within each sequence, (1, H, N, d): one call of `attend` per group.

        Args:
            attend: (queries, keys, values, bias, *options) -> (B, H, L, d).
            q: queries, (1, H, N, d).
            k: keys.
            v: values.
            options: passed on.
        """
        sizes = [sum(group.counts) for group in self.groups]
        batches = zip(*(x.split(sizes, 2) for x in (q, k, v)), strict=True)
        outputs = [
            group.pack(attend(*map(group.unpack, batch), group.bias, *options))
            for group, batch in zip(self.groups, batches, strict=True)
        ]
        return torch.cat(outputs, 1).transpose(1, 2)


class PackedTokens:
    """Batches of tokens, all sequences concatenated, with the interface of `Tokens`.

    Args:
        views: whose padding the CPU knows: `Tokens.knows_padding`.
    """

    pad_BL = None

    def __init__(self, views: Sequence[Tokens]) -> None:
        self.views = views
        self._real = [_real(view) for view in views]
        packed = (_pack(view.x_BLD, real) for view, real in zip(views, self._real, strict=True))
        self.x_BLD = torch.cat(list(packed))[None]
        self.shared_bias = all(view.shared_bias for view in views)
        self._lengths = [_lengths(*each) for each in zip(views, self._real, strict=True)]
        self.lengths: dict[str, int] = {}
        for one in itertools.chain(*self._lengths):
            for name, count in one.items():
                self.lengths[name] = self.lengths.get(name, 0) + count

    def bias(self, block: int, dtype: torch.dtype) -> PackedBias:
        """The bias of a block."""
        groups = []
        for view, real, lengths in zip(self.views, self._real, self._lengths, strict=True):
            if real is None:
                groups.append(PackedGroup(view.bias(block, dtype), lengths))
                continue
            _, length, width = view.x_BLD.shape
            # A GPU is faster in one call than in a call for each sequence.
            if view.x_BLD.device.type != "cpu" or width * length**2 <= MAX_PADDED_WORK:
                groups.append(PackedGroup(view.masked_bias(block, dtype), lengths, real))
                continue
            values = view.bias(block, dtype).dense()
            each = [None] * len(lengths)
            if values is not None:
                each = values.expand(len(lengths), -1, -1, -1).split(1)
            for value, one, pad in zip(each, lengths, real.pad_BL, strict=True):
                kept = value if value is None else _select(value, np.flatnonzero(~pad))
                groups.append(PackedGroup(DenseBias(kept), [one]))
        return PackedBias(groups)

    def unpack(self, x_1ND: Tensor) -> list[Tensor]:
        """The batches that were packed, (B, L, D) each, with zeros for padding."""
        sizes = [sum(sum(one.values()) for one in lengths) for lengths in self._lengths]
        batches = zip(self.views, self._real, x_1ND[0].split(sizes), strict=True)
        return [_unpack(x, len(view.x_BLD), real) for view, real, x in batches]


def _real(view: Tokens) -> RealTokens | None:
    """What is not padding; None: there is no padding."""
    assert view.knows_padding
    pad_BL = view.known_pad_BL
    return RealTokens.of(pad_BL, view.x_BLD) if pad_BL is not None and pad_BL.any() else None


def _lengths(view: Tokens, real: RealTokens | None) -> list[Mapping[str, int]]:
    """For each sequence, modality -> number of its tokens without padding."""
    if real is None:
        return [view.lengths] * len(view.x_BLD)
    stops = np.cumsum(list(view.lengths.values()))
    counts = np.stack([(~pad).sum(1) for pad in np.split(real.pad_BL, stops[:-1], 1)], 1)
    return [dict(zip(view.lengths, row, strict=True)) for row in counts.tolist()]


def _pack(x: Tensor, real: RealTokens | None) -> Tensor:
    """(B, L, ...) -> (N, ...), concatenated, without padding."""
    x = x.flatten(0, 1)
    return x if real is None else x.index_select(0, real.index_N)


def _unpack(x: Tensor, batch: int, real: RealTokens | None) -> Tensor:
    """Undo `_pack`, with zeros for padding."""
    if real is None:
        return x.unflatten(0, (batch, -1))
    padded = x.new_zeros(real.pad_BL.size, *x.shape[1:])
    return padded.index_copy(0, real.index_N, x).unflatten(0, real.pad_BL.shape)


def _select(bias_1HLL: Tensor, index: np.ndarray) -> Tensor:
    """Rows and columns of a bias; a view of it, if they are the first ones."""
    count = len(index)
    if count and index[-1] == count - 1:
        return bias_1HLL[..., :count, :count]
    rows = index_for(bias_1HLL, index)
    return bias_1HLL.index_select(2, rows).index_select(3, rows)
