"""Packing: sequences one behind the other, so that nothing is computed for padding.

Shapes: B batch, L tokens, N tokens of all sequences, D width, H heads, d = D / H.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from mmonepeace.layers.relative_position_bias import GridBias
from mmonepeace.layers.tokens import Tokens, dense

# Width times padded tokens squared up to which attention of a whole batch in one call is faster
# than of each sequence alone, which costs half a millisecond in training (benchmarks/ideas.md).
_FEW = 2**20


class Group(NamedTuple):
    """Sequences whose attention is computed in one call.

    Attributes:
        bias: (1 or B, H, L, L) with padded keys at minus infinity, or that of a grid, or None.
        lengths: for each sequence, modality -> number of its tokens, in the order they stand.
        pad_BL: True where a token is padding; None: there is none.
    """

    bias: Tensor | GridBias | None
    lengths: Sequence[Mapping[str, int]]
    pad_BL: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        """Tokens of each sequence."""
        return [sum(lengths.values()) for lengths in self.lengths]

    def select(self, rows: Sequence[int]) -> "Group":
        """Some of the sequences."""
        bias, pad = self.bias, self.pad_BL
        if isinstance(bias, Tensor) and len(bias) > 1:
            bias = bias[rows]
        lengths = [self.lengths[i] for i in rows]
        return Group(bias, lengths, None if pad is None else pad[rows])

    def spread(self, x_1HNd: Tensor) -> Tensor:
        """Sequences one behind the other as a batch, (B, H, L, d)."""
        x = _spread(x_1HNd[0].transpose(0, 1), len(self.lengths), self.pad_BL)
        return x.transpose(1, 2)

    def collect(self, x_BHLd: Tensor) -> Tensor:
        """Undo `spread`, (1, N, H, d)."""
        return _collect(x_BHLd.transpose(1, 2), self.pad_BL)[None]


class Ragged(NamedTuple):
    """Sequences that stand one behind the other."""

    groups: Sequence[Group]

    @property
    def counts(self) -> list[int]:
        """Tokens of each sequence."""
        return [count for group in self.groups for count in group.counts]

    @property
    def segments(self) -> list[tuple[str, int]]:
        """(modality, tokens) of each stretch of one modality."""
        each = (item for g in self.groups for lengths in g.lengths for item in lengths.items())
        return [
            (name, sum(n for _, n in run)) for name, run in itertools.groupby(each, itemgetter(0))
        ]

    def select(self, index: Tensor | None) -> "Ragged":
        """Some of the sequences, in rising order; None: all."""
        if index is None:
            return self
        groups, start, chosen = [], 0, index.tolist()
        for group in self.groups:
            stop = start + len(group.lengths)
            if rows := [i - start for i in chosen if start <= i < stop]:
                groups.append(group.select(rows))
            start = stop
        return Ragged(groups)


@dataclass
class Packed:
    """Batches of tokens, all sequences one behind the other, in the form of `Tokens`.

    Args:
        views: the batches.
    """

    views: Sequence[Tokens]

    def __post_init__(self) -> None:
        self.x_BLD = torch.cat([_collect(view.x_BLD, view.pad_BL) for view in self.views])[None]
        self.shared_bias = all(view.shared_bias or view.bias is None for view in self.views)
        self._lengths = [_lengths(view) for view in self.views]
        self.lengths: dict[str, int] = {}
        for one in itertools.chain(*self._lengths):
            for name, count in one.items():
                self.lengths[name] = self.lengths.get(name, 0) + count

    def masked_bias(self, block: int, dtype: torch.dtype) -> Ragged:
        """The bias of a block and what it belongs to."""
        groups = []
        for view, lengths in zip(self.views, self._lengths, strict=True):
            _, length, width = view.x_BLD.shape
            if view.pad_BL is None or width * length**2 <= _FEW:
                groups.append(Group(view.masked_bias(block, dtype), lengths, view.pad_BL))
                continue
            bias = dense(view.bias(block, dtype)) if view.bias else None
            rows = [None] * len(lengths)
            if bias is not None:
                rows = bias.expand(len(lengths), -1, -1, -1).split(1)
            for row, one, pad in zip(rows, lengths, view.pad_BL, strict=True):
                groups.append(Group(row if row is None else _kept(row, _places(pad)), [one]))
        return Ragged(groups)

    def unpack(self, x_1ND: Tensor) -> list[Tensor]:
        """Where the tokens stood, (B, L, D) for each batch, with zeros for padding."""
        sizes = [sum(sum(one.values()) for one in lengths) for lengths in self._lengths]
        return [
            _spread(x, len(view.x_BLD), view.pad_BL)
            for view, x in zip(self.views, x_1ND[0].split(sizes), strict=True)
        ]


def _lengths(view: Tokens) -> list[Mapping[str, int]]:
    """For each sequence, modality -> number of its tokens without padding."""
    if view.pad_BL is None:
        return [view.lengths] * len(view.x_BLD)
    counts = torch.stack([(~pad).sum(1) for pad in view.split(view.pad_BL).values()], 1)
    return [dict(zip(view.lengths, row, strict=True)) for row in counts.tolist()]


def _places(pad: Tensor) -> Tensor:
    """Indices of what is no padding in the flattened mask."""
    return (~pad).flatten().nonzero().squeeze(1)


def _collect(x: Tensor, pad_BL: Tensor | None) -> Tensor:
    """(B, L, ...) -> (N, ...), one behind the other, without padding."""
    x = x.flatten(0, 1)
    return x if pad_BL is None else x.index_select(0, _places(pad_BL))


def _spread(x: Tensor, batch: int, pad_BL: Tensor | None) -> Tensor:
    """Undo `_collect`, with zeros for padding."""
    if pad_BL is None:
        return x.unflatten(0, (batch, -1))
    whole = x.new_zeros(pad_BL.numel(), *x.shape[1:])
    return whole.index_copy(0, _places(pad_BL), x).unflatten(0, pad_BL.shape)


def _kept(bias_1HLL: Tensor, index: Tensor) -> Tensor:
    """Rows and columns of a bias; a view of it, if the others stand behind."""
    count = len(index)
    if count and index[-1] == count - 1:
        return bias_1HLL[..., :count, :count]
    return bias_1HLL.index_select(2, index).index_select(3, index)
