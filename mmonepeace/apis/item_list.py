"""The items of an index as JSON, of which only those that are asked for are parsed.

Ten million items are 1 GB of text: in a mapped file they take no memory until they are read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, overload

import numpy as np

MODALITIES = ("text", "image", "audio")  # their positions are stored
DAMAGED = 255
_SEPARATOR = ", "  # of json.dumps


class ItemList(Sequence[dict[str, Any]]):
    """Items by position; see `EmbeddingIndex.items`.

    Args:
        text: uint8, the JSON list of all items.
        starts: (N + 1,) int64, the first byte of each; the last is where one more would begin.
        modalities: (N,) uint8, positions in `MODALITIES`.
    """

    def __init__(self, text: np.ndarray, starts: np.ndarray, modalities: np.ndarray) -> None:
        self.text, self.starts, self.modalities = text, starts, modalities

    @classmethod
    def of(cls, items: Iterable[Any]) -> "ItemList":
        """Encode items."""
        items = list(items)
        return cls.of_keys(list(map(json.dumps, items)), np.array([*map(_code, items)], np.uint8))

    @classmethod
    def of_keys(cls, keys: Sequence[str], modalities: np.ndarray) -> "ItemList":
        """Items from the JSON of each, as `json.dumps` writes it: in ASCII."""
        lengths = np.fromiter(map(len, keys), np.int64, len(keys)) + len(_SEPARATOR)
        starts = np.concatenate([[1], 1 + np.cumsum(lengths)])
        text = np.frombuffer(f"[{_SEPARATOR.join(keys)}]".encode("ascii"), np.uint8)
        return cls(text, starts, modalities)

    def is_whole(self) -> bool:
        """Whether text and offsets are those of all items, and of no others."""
        starts, count = self.starts, len(self.modalities)
        # Of no items the separator is missing.
        end = len(self.text) + 1 if count else 1
        return starts.shape == (count + 1,) and (starts[0], starts[-1]) == (1, end)

    def are_known(self) -> bool:
        """Whether each has a known modality and a name."""
        return not len(self) or bool(self.modalities.max() < len(MODALITIES))

    def key(self, row: int) -> str:
        """The JSON of one item."""
        start, end = int(self.starts[row]), int(self.starts[row + 1]) - len(_SEPARATOR)
        return self.text[start:end].tobytes().decode("ascii")

    def keys(self) -> Iterator[str]:
        """The JSON of each item, with a part of the offsets in memory."""
        for first in range(0, len(self), 65_536):
            starts = self.starts[first : first + 65_537]
            text = self.text[starts[0] : starts[-1]].tobytes().decode("ascii")
            bounds = (starts - starts[0]).tolist()
            for start, end in pairwise(bounds):
                yield text[start : end - len(_SEPARATOR)]

    def take(self, rows: slice | np.ndarray) -> "ItemList":
        """Some items: a view of a slice, otherwise a copy."""
        if isinstance(rows, slice):
            first, end, _ = rows.indices(len(self))
            starts = self.starts[first : max(first, end) + 1]
            return ItemList(self.text, starts, self.modalities[rows])
        return ItemList.of_keys([self.key(row) for row in rows], self.modalities[rows])

    def packed(self) -> "ItemList":
        """The same items without the text of others."""
        return self if self.is_whole() else ItemList.of_keys([*self.keys()], self.modalities)

    def __len__(self) -> int:
        return len(self.modalities)

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, row: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, row: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        position = range(len(self))[row]
        item: Any = None
        with suppress(ValueError):
            item = json.loads(self.key(position))
        if _code(item) == DAMAGED:
            raise ValueError(f"item {position} of the index is damaged. Make the index again.")
        return dict(item)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list


def name_of(item: Mapping[str, Any]) -> tuple[str, str]:
    """What an item is, whatever the state of its file: its modality, and its text or path."""
    return item["modality"], item.get("text") or item.get("path", "")


def _code(item: Any) -> int:
    """The position of an item's modality, or `DAMAGED`."""
    known = isinstance(item, dict) and item.get("modality") in MODALITIES and name_of(item)[1]
    return MODALITIES.index(item["modality"]) if known else DAMAGED
