"""Packing: sequences concatenated along one batch item, so that no padding is computed.

Shapes: B batch, L tokens, N tokens of all sequences, D width, H heads, d = D / H.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from mmonepeace.layers.relative_position_bias import AttentionBias, DenseBias
from mmonepeace.layers.tokens import Tokens

# Width times padded tokens squared up to which one attention call for a padded batch is faster than
# a call for each sequence, which costs half a millisecond in training (benchmarks/ideas.md).
MAX_PADDED_WORK = 2**20


@dataclass(frozen=True)
class PackedGroup:
    """Sequences whose attention is computed in one call.

    Attributes:
        bias: of the padded batch, with minus infinity for padded keys.
        lengths: for each sequence, modality -> number of its tokens, in the order of the sequence.
        pad_BL: True where a token is padding; None: there is no padding.
    """

    bias: AttentionBias
    lengths: Sequence[Mapping[str, int]]
    pad_BL: Tensor | None = None

    @property
    def counts(self) -> list[int]:
        """Tokens of each sequence."""
        return [sum(lengths.values()) for lengths in self.lengths]

    def select(self, samples: Tensor) -> "PackedGroup":
        """Some of the sequences."""
        lengths = [self.lengths[i] for i in samples.tolist()]
        pad_BL = None if self.pad_BL is None else self.pad_BL[samples]
        return PackedGroup(self.bias.select(samples), lengths, pad_BL)

    def unpack(self, x_1HNd: Tensor) -> Tensor:
        """Concatenated sequences as a padded batch, (B, H, L, d)."""
        x = _unpack(x_1HNd[0].transpose(0, 1), len(self.lengths), self.pad_BL)
        return x.transpose(1, 2)

    def pack(self, x_BHLd: Tensor) -> Tensor:
        """Undo `unpack`, (1, N, H, d)."""
        return _pack(x_BHLd.transpose(1, 2), self.pad_BL)[None]


@dataclass(frozen=True)
class PackedBias(AttentionBias):
    """The bias of concatenated sequences, which do not attend to each other."""

    groups: Sequence[PackedGroup]
    grid = None
    is_packed = True

    @property
    def counts(self) -> list[int]:
        """Tokens of each sequence."""
        return [count for group in self.groups for count in group.counts]

    @property
    def segments(self) -> list[tuple[str, int]]:
        """(modality, tokens) of each contiguous run of one modality."""
        each = (item for g in self.groups for lengths in g.lengths for item in lengths.items())
        return [
            (name, sum(n for _, n in run)) for name, run in itertools.groupby(each, itemgetter(0))
        ]

    def select(self, samples: Tensor) -> "PackedBias":
        groups, start = [], 0
        for group in self.groups:
            stop = start + len(group.lengths)
            chosen = samples[(samples >= start) & (samples < stop)] - start
            if len(chosen):
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
    """Batches of tokens, all sequences concatenated, with the interface of `Tokens`."""

    pad_BL = None

    def __init__(self, views: Sequence[Tokens]) -> None:
        self.views = views
        self.x_BLD = torch.cat([_pack(view.x_BLD, view.pad_BL) for view in views])[None]
        self.shared_bias = all(view.shared_bias for view in views)
        self._lengths = [_lengths(view) for view in views]
        self.lengths: dict[str, int] = {}
        for one in itertools.chain(*self._lengths):
            for name, count in one.items():
                self.lengths[name] = self.lengths.get(name, 0) + count

    def bias(self, block: int, dtype: torch.dtype) -> PackedBias:
        """The bias of a block."""
        groups = []
        for view, lengths in zip(self.views, self._lengths, strict=True):
            _, length, width = view.x_BLD.shape
            if view.pad_BL is None or width * length**2 <= MAX_PADDED_WORK:
                groups.append(PackedGroup(view.masked_bias(block, dtype), lengths, view.pad_BL))
                continue
            values = view.bias(block, dtype).dense()
            each = [None] * len(lengths)
            if values is not None:
                each = values.expand(len(lengths), -1, -1, -1).split(1)
            for value, one, pad in zip(each, lengths, view.pad_BL, strict=True):
                kept = value if value is None else _select(value, _real(pad))
                groups.append(PackedGroup(DenseBias(kept), [one]))
        return PackedBias(groups)

    def unpack(self, x_1ND: Tensor) -> list[Tensor]:
        """The batches that were packed, (B, L, D) each, with zeros for padding."""
        sizes = [sum(sum(one.values()) for one in lengths) for lengths in self._lengths]
        return [
            _unpack(x, len(view.x_BLD), view.pad_BL)
            for view, x in zip(self.views, x_1ND[0].split(sizes), strict=True)
        ]


def _lengths(view: Tokens) -> list[Mapping[str, int]]:
    """For each sequence, modality -> number of its tokens without padding."""
    if view.pad_BL is None:
        return [view.lengths] * len(view.x_BLD)
    counts = torch.stack([(~pad).sum(1) for pad in view.split(view.pad_BL).values()], 1)
    return [dict(zip(view.lengths, row, strict=True)) for row in counts.tolist()]


def _real(pad: Tensor) -> Tensor:
    """Indices of real tokens in the flattened mask."""
    return (~pad).flatten().nonzero().squeeze(1)


def _pack(x: Tensor, pad_BL: Tensor | None) -> Tensor:
    """(B, L, ...) -> (N, ...), concatenated, without padding."""
    x = x.flatten(0, 1)
    return x if pad_BL is None else x.index_select(0, _real(pad_BL))


def _unpack(x: Tensor, batch: int, pad_BL: Tensor | None) -> Tensor:
    """Undo `_pack`, with zeros for padding."""
    if pad_BL is None:
        return x.unflatten(0, (batch, -1))
    padded = x.new_zeros(pad_BL.numel(), *x.shape[1:])
    return padded.index_copy(0, _real(pad_BL), x).unflatten(0, pad_BL.shape)


def _select(bias_1HLL: Tensor, index: Tensor) -> Tensor:
    """Rows and columns of a bias; a view of it, if they are the first ones."""
    count = len(index)
    if count and index[-1] == count - 1:
        return bias_1HLL[..., :count, :count]
    return bias_1HLL.index_select(2, index).index_select(3, index)
