"""Features of files and texts in shards of a folder: what a cache holds, to read.

`apis.feature_cache` computes and writes them. Shapes: N items, B of them, T tokens of an item (1 if
they are pooled), D width.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmonepeace.datasets.sample_errors import reason

Shard = tuple[Sequence[str], Tensor, np.ndarray]  # keys of items, (rows, D), rows of each item
Reader = Callable[[Path], Shard]


@dataclass
class Features:
    """Features of N items, in shards that stay on disk until they are used."""

    shards: list[Tensor]  # each (rows, D)
    where: Tensor  # (N, 3) int64: shard, first row there and number of rows of each item

    def __len__(self) -> int:
        return len(self.where)

    @property
    def embed_dim(self) -> int:
        return self.shards[0].shape[1]

    def take(self, items: Tensor) -> "Features":
        """Those of some items, by index, in the given order."""
        return Features(self.shards, self.where[items])

    def vectors(self) -> Tensor:
        """(N, D) float32 of pooled features."""
        x_ND = torch.empty(len(self), self.embed_dim)
        for shard in self.where[:, 0].unique():
            inside = self.where[:, 0] == shard
            x_ND[inside] = self.shards[shard][self.where[inside, 1]].float()
        return x_ND

    def sequences(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of some items: (B, T, D) float32, and (B, T), True where they are padding."""
        where = self.where[items]
        tokens = [self.shards[i][first : first + count] for i, first, count in where.tolist()]
        x_BTD = pad_sequence(tokens, batch_first=True).float()
        return x_BTD, torch.arange(x_BTD.shape[1]) >= where[:, 2:]


class FeatureShards:
    """Features of items by key, in the shards of a folder, which may be missing.

    `read`, by default `read_shard`, raises a ValueError for a file that it cannot read. `errors`
    takes file -> reason for these; None raises at the first.
    """

    def __init__(
        self, folder: Path, read: Reader | None = None, errors: dict[str, str] | None = None
    ) -> None:
        self._folder, self._read, self._errors = folder, read or read_shard, errors
        self._shards: list[Tensor] = []
        self._where: dict[str, tuple[int, int, int]] = {}
        self._files = set[Path]()
        self.refresh()

    def __contains__(self, key: str | None) -> bool:
        return key in self._where

    def refresh(self) -> None:
        """Read the shards that are new in the folder."""
        for file in sorted(set(self._folder.glob("*.safetensors")) - self._files):
            self._files.add(file)
            try:
                self.add(self._read(file))
            except ValueError as error:
                if self._errors is None:
                    raise
                self._errors[str(file)] = str(error)

    def add(self, shard: Shard) -> None:
        """Add a shard, which need not be in the folder."""
        keys, rows, lengths = shard
        starts = np.cumsum(lengths) - lengths
        for key, start, length in zip(keys, starts.tolist(), lengths.tolist(), strict=True):
            self._where[key] = (len(self._shards), start, length)
        if keys:  # without, it may have another width
            self._shards.append(rows)

    def take(self, keys: Iterable[str]) -> Features:
        """The features of items, in the order of their keys."""
        where = [self._where[key] for key in keys]
        return Features(self._shards, torch.tensor(where, dtype=torch.long).view(-1, 3))


def item_keys(
    modality: str, values: Iterable[str | Path], folder: Path, errors: dict[str, str]
) -> dict[str, str]:
    """Path or text -> its key, the JSON of an item of an index, with paths from a resolved folder.

    Missing files are added to `errors`, path -> reason.
    """
    keys = {}
    for value in map(str, values):
        item: dict[str, str | int] = {"modality": modality}
        if modality == "text":
            item["text"] = value
        else:
            try:
                # Links among the files keep their names; links above them would break `..`.
                path = Path(value).parent.resolve() / Path(value).name
                stat = path.stat()
            except (OSError, ValueError) as error:  # ValueError: no name of a file
                errors[value] = f"{value}: {reason(error)}"
                continue
            with suppress(ValueError):  # another drive
                path = Path(os.path.relpath(path, folder))
            item |= {"path": path.as_posix(), "size": stat.st_size, "mtime": stat.st_mtime_ns}
        keys[value] = json.dumps(item)
    return keys


def read_shard(path: Path) -> Shard:
    """Read what `apis.feature_cache.write_shard` wrote; a ValueError if it is damaged."""
    try:
        with safe_open(str(path), "pt") as file:
            keys = json.loads(file.get_tensor("items").numpy().tobytes())
            features, lengths = file.get_tensor("features"), file.get_tensor("lengths").numpy()
        if features.ndim != 2 or len(keys) != len(lengths) or lengths.sum() != len(features):
            raise ValueError("its items do not fit its features")
        return keys, features, lengths
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        fault = f"{path} is damaged: {error}"
        raise ValueError(f"{fault}. Delete it; what it held is computed again.") from None
