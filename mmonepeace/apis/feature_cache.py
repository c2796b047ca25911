"""Features of files and texts, computed once: a resumable cache of shards in a folder.

Shapes: N items, B of them, T tokens of an item (1 if they are pooled), D width.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.item_reader import BLOCK_BATCHES
from mmonepeace.apis.tensor_file import save_tensors
from mmonepeace.choices import Feature
from mmonepeace.console import progress_bar
from mmonepeace.datasets.feature_shards import (
    Features,
    FeatureShards,
    Reader,
    Shard,
    item_keys,
    read_shard,
)

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
Writer = Callable[[Path, Shard], None]


class FeatureCache(FeatureShards):
    """Shards of features that are computed where they are missing, see `FeatureShards`.

    `write` writes a shard that `read` reads.
    """

    def __init__(
        self, folder: Path, read: Reader, write: Writer, errors: dict[str, str] | None = None
    ) -> None:
        super().__init__(folder, read, errors)
        self._write = write

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
        parts = (
            (len(block), _compute(embedder, modality, feature, block, errors)) for block in blocks
        )
        yield from self.fill(parts)

    def fill(self, parts: Iterable[tuple[int, dict[str, Tensor]]]) -> Iterator[int]:
        """Store features while they are computed; finished shards are kept if the run is stopped.

        `parts` has numbers of items and, by key, their features (T, D). Yields the numbers.
        """
        computed: dict[str, Tensor] = {}
        began, count = time.monotonic(), 0
        for number, features in parts:
            computed |= features
            count += 1
            if count == MAX_SHARD_BLOCKS or time.monotonic() - began >= SHARD_SECONDS:
                self._store(computed)
                computed, began, count = {}, time.monotonic(), 0
            yield number
        self._store(computed)

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
    known = FeatureCache(folder, read_shard, partial(write_shard, meta=meta))
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


def write_shard(path: Path, shard: Shard, meta: dict[str, str]) -> None:
    keys, rows, lengths = shard
    items = np.frombuffer(json.dumps(keys).encode(), np.uint8)
    save_tensors(path, {"features": rows.numpy(), "lengths": lengths, "items": items}, meta)
