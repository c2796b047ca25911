"""Features of files and texts, computed once: a resumable cache of shards in a folder.

Shapes: N items, B of them, T tokens of an item (1 if they are pooled), D width.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.item_reader import BLOCK_BATCHES
from mmonepeace.apis.tensor_file import save_tensors
from mmonepeace.choices import Feature
from mmonepeace.console import progress_bar
from mmonepeace.datasets.sample_errors import reason

FORMAT = "mmonepeace-features"
# What the features of an item depend on, beside the item: keys of `embedder_settings`.
SETTINGS = {
    "text": ("fingerprint", "dtype", "tokenizer_fingerprint"),
    "image": ("fingerprint", "dtype", "image_size", "keep_ratio", "fast_jpeg", "alpha"),
    "audio": ("fingerprint", "dtype", "window_seconds", "hop_seconds"),
}
SHARD_SECONDS = 10.0  # of work, which is what a killed run loses, or one block
MAX_SHARD_BLOCKS = 16

Block = list[tuple[str, str]]  # key, and path or text, of items that are computed together
Shard = tuple[Sequence[str], Tensor, np.ndarray]  # keys of items, (rows, D), rows of each item
Reader = Callable[[Path], Shard]
Writer = Callable[[Path, Shard], None]


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


class FeatureCache:
    """Features of items by key, in the shards of a folder, which may be missing.

    `read` raises a ValueError for a file that it cannot read. `errors` takes file -> reason for
    these; None raises at the first.
    """

    def __init__(
        self, folder: Path, read: Reader, write: Writer, errors: dict[str, str] | None = None
    ) -> None:
        self._folder, self._read, self._write, self._errors = folder, read, write, errors
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

    def compute(
        self,
        embedder: Embedder,
        modality: str,
        feature: Feature,
        blocks: Sequence[Block],
        errors: dict[str, str],
    ) -> Iterator[int]:
        """Compute features shard by shard; finished ones are kept if the run is stopped.

        A block goes through the model by itself: its features are the same to the bit whatever
        else is computed. Items that cannot be read are added to `errors`, path or text -> reason.
        Yields the number of items that each block has dealt with.
        """
        computed: dict[str, Tensor] = {}
        began, count = time.monotonic(), 0
        for i, block in enumerate(blocks, 1):
            computed |= _compute(embedder, modality, feature, block, errors)
            count += 1
            full = count == MAX_SHARD_BLOCKS or time.monotonic() - began >= SHARD_SECONDS
            if full or i == len(blocks):
                self._store(computed)
                computed, began, count = {}, time.monotonic(), 0
            yield len(block)

    def _store(self, computed: dict[str, Tensor]) -> None:
        if not computed:
            return
        rows = list(computed.values())
        lengths = np.array([len(x) for x in rows])
        file = self._folder / f"{time.time_ns()}-{os.getpid()}.safetensors"
        self._files.add(file)
        self._write(file, (list(computed), torch.cat(rows), lengths))
        self.add(self._read(file))  # of the file: memory holds only what is used


def into_blocks(items: Block, embedder: Embedder) -> list[Block]:
    """Items in blocks as large as the reader sorts into batches."""
    size = BLOCK_BATCHES * embedder.batch_size
    return [items[start : start + size] for start in range(0, len(items), size)]


def extract_features(
    embedder: Embedder,
    modality: str,
    paths: Sequence[str | Path],
    feature: Feature,
    cache: str | Path,
) -> tuple[Features, dict[str, str]]:
    """Features of image or audio files; those that the cache has are not computed again.

    A feature is identified by the path of its file from `cache`, its size and modification time,
    the weights, and the settings that it depends on.

    The cache is a folder for any number of models, features and data sets. The feature is
    "embedding", or a pooling of `Embedder.encode_features`. Tokens are stored in half precision; so
    that they cannot exceed its range, each is scaled to mean 0 and variance 1, as the LayerNorm of
    whatever reads them would do.

    Returns:
        the features of the files that can be read, in their order; path -> reason for the others.

    Raises:
        ValueError: if the model lacks that branch or projections, or a file of the cache is damaged.
        OSError: if the cache cannot be written.
    """
    settings = embedder_settings(embedder)
    meta = {
        name: settings[name] for name in SETTINGS[modality] if settings[name] or name != "alpha"
    }
    meta |= embedder.model.backbone.metadata()
    meta |= {"format": FORMAT, "modality": modality, "feature": feature}
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache, f"{modality}-{feature}-{digest}")
    known = FeatureCache(folder, _read_shard, partial(_write_shard, meta=meta))
    errors: dict[str, str] = {}
    keys = item_keys(modality, paths, Path(cache).resolve(), errors)
    todo = [(key, path) for path, key in keys.items() if key not in known]
    with progress_bar(total=len(todo), desc=feature, unit=" items", disable=not todo) as bar:
        for count in known.compute(
            embedder, modality, feature, into_blocks(todo, embedder), errors
        ):
            bar.update(count)
    return known.take(keys[p] for p in map(str, paths) if keys.get(p) in known), errors


def embedder_settings(embedder: Embedder) -> dict[str, str]:
    """What embeddings depend on, beside the items, as metadata of a file."""
    reader = embedder.reader
    values = {
        "fingerprint": embedder.fingerprint,
        "dtype": str(embedder.model.logit_scale.dtype).removeprefix("torch."),
        "image_size": reader.image_size or "",
        "keep_ratio": int(reader.keep_ratio),
        "fast_jpeg": int(reader.fast_jpeg),
        "alpha": "" if reader.alpha == "drop" else reader.alpha,  # older files do not have it
        "window_seconds": reader.windows[0],
        "hop_seconds": reader.windows[1],
        "tokenizer_fingerprint": "",
    }
    if reader.tokenizer:
        content = reader.tokenizer.to_json().encode()
        values["tokenizer_fingerprint"] = hashlib.sha256(content).hexdigest()[:16]
    return {name: str(value) for name, value in values.items()}


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


def _compute(
    embedder: Embedder,
    modality: str,
    feature: Feature,
    items: Sequence[tuple[str, str]],
    errors: dict[str, str],
) -> dict[str, Tensor]:
    """Key -> (T, D) as it is stored, of the items that can be read."""
    values = [value for _, value in items]
    failed: dict[int, str] = {}
    if feature == "embedding":
        features = torch.as_tensor(embedder.encode(modality, values, failed))
    else:
        features = embedder.encode_features(modality, values, feature, failed)
    computed = {}
    for i, ((key, value), x) in enumerate(zip(items, features, strict=True)):
        if i not in failed and not x.isfinite().all():
            half = embedder.model.logit_scale.dtype == torch.float16
            advice = " float16 ends at 65504: use --dtype bf16 or fp32." if half else ""
            failed[i] = f"{value}: its {feature} is not finite.{advice}"
        if i not in failed:
            tokens = feature == "tokens"
            computed[key] = F.layer_norm(x, x.shape[1:]).half() if tokens else x[None]
    errors |= {values[i]: fault for i, fault in failed.items()}
    return computed


def _write_shard(path: Path, shard: Shard, meta: dict[str, str]) -> None:
    keys, rows, lengths = shard
    items = np.frombuffer(json.dumps(keys).encode(), np.uint8)
    save_tensors(path, {"features": rows.numpy(), "lengths": lengths, "items": items}, meta)


def _read_shard(path: Path) -> Shard:
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
