"""Features of files, computed once: shards in a folder, read where they lie.

Shapes: N items, B of them, T tokens of an item (1 where they are pooled), D width.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from mmonepeace.apis.embedder import Embedder, Pooling
from mmonepeace.apis.feature_cache import SETTINGS, describe_item, in_parts, settings
from mmonepeace.apis.index import save_tensors

Feature = Literal["embedding", "cls", "mean", "tokens"]
FORMAT = "mmonepeace-features"


@dataclass
class Features:
    """Features of N items, in shards that stay on disk until they are used.

    Attributes:
        shards: each (rows, D).
        where: (N, 3) int64: for each item its shard, its first row there and the number of rows.
    """

    shards: list[Tensor]
    where: Tensor

    def __len__(self) -> int:
        return len(self.where)

    @property
    def embed_dim(self) -> int:
        return self.shards[0].shape[1]

    def take(self, rows: Tensor) -> "Features":
        """Those of some items, in the given order."""
        return Features(self.shards, self.where[rows])

    def vectors(self) -> Tensor:
        """(N, D) float32 of pooled features."""
        found = torch.empty(len(self), self.embed_dim)
        for i in self.where[:, 0].unique():
            rows = self.where[:, 0] == i
            found[rows] = self.shards[i][self.where[rows, 1]].float()
        return found

    def sequences(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of some items: (B, T, D) float32, zero where they are padding; (B, T) where."""
        where = self.where[rows].tolist()
        x_BTD = pad_sequence(
            [self.shards[shard][first : first + count] for shard, first, count in where],
            batch_first=True,
        ).float()
        lengths = torch.tensor([count for _, _, count in where])
        return x_BTD, torch.arange(x_BTD.shape[1]) >= lengths[:, None]


def extract_features(
    embedder: Embedder,
    modality: str,
    paths: Sequence[str | Path],
    feature: Feature,
    cache: str | Path,
) -> tuple[Features, dict[str, str]]:
    """Features of files, of which only those are computed that the cache lacks.

    A feature is known again by the path of its file from `cache`, its size and time of change, by
    the weights, and by the settings that it depends on. What is done is kept if a run is stopped.

    Args:
        embedder: the model.
        modality: image or audio.
        paths: files.
        feature: "embedding", or a pooling of `Embedder.encode_features`. Tokens are kept in half
            precision; so that they cannot exceed its range, each is brought to mean 0 and variance
            1, as the LayerNorm of whatever reads them would do.
        cache: folder, for any number of models, features and data sets.

    Returns:
        the features of the files that can be read, in their order; path -> reason for the others.

    Raises:
        ValueError: if the model has no such branch or no projections, or a file of the cache is
            damaged.
        OSError: if the cache cannot be written.
    """
    facts = settings(embedder)
    meta = {name: facts[name] for name in SETTINGS[modality]}
    meta |= embedder.model.backbone.metadata()
    meta |= {"format": FORMAT, "modality": modality, "feature": feature}
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]
    store = Path(cache, f"{modality}-{feature}-{digest}")
    errors: dict[str, str] = {}
    keys: dict[str, str] = {}
    for path in map(str, paths):
        try:
            keys[path] = json.dumps(describe_item(modality, path, Path(cache).resolve()))
        except OSError as error:
            errors[path] = f"{path}: {error.strerror}"
    shards: list[Tensor] = []
    known: dict[str, tuple[int, int, int]] = {}

    def open_shard(file: Path) -> None:
        rows, lengths, items = _read_shard(file)
        starts = np.cumsum(lengths) - lengths
        for key, start, length in zip(items, starts, lengths, strict=True):
            known[key] = (len(shards), int(start), int(length))
        shards.append(rows)

    for file in sorted(store.glob("*.safetensors")):
        open_shard(file)
    todo = [path for path, key in keys.items() if key not in known]
    with tqdm(total=len(todo), desc=feature, unit=" items", disable=None if todo else True) as bar:
        for part in in_parts(todo, embedder.batch_size):
            found = _compute(embedder, modality, part, feature, errors)
            if found:
                file = store / f"{time.time_ns()}-{os.getpid()}.safetensors"
                _write_shard(file, {keys[path]: rows for path, rows in found.items()}, meta)
                open_shard(file)
            bar.update(len(part))
    where = [known[keys[path]] for path in map(str, paths) if keys.get(path) in known]
    return Features(shards, torch.tensor(where, dtype=torch.long).view(-1, 3)), errors


def _compute(
    embedder: Embedder, modality: str, paths: list[str], feature: Feature, errors: dict[str, str]
) -> dict[str, Tensor]:
    """Path -> (T, D), as it is stored; what cannot be read goes to `errors`."""
    failed: dict[int, str] = {}
    if feature in get_args(Pooling):
        rows = embedder.encode_features(modality, paths, feature, failed)
    else:
        rows = list(torch.as_tensor(getattr(embedder, f"encode_{modality}")(paths, failed)))
    errors |= {paths[i]: reason for i, reason in failed.items()}
    found = {}
    for i in sorted(set(range(len(paths))) - set(failed)):
        x_TD = rows[i] if feature == "tokens" else rows[i][None]
        if not x_TD.isfinite().all():
            errors[paths[i]] = f"{paths[i]}: its {feature} is not finite. Use --dtype bf16 or fp32."
        elif feature == "tokens":
            found[paths[i]] = F.layer_norm(x_TD, x_TD.shape[1:]).half()
        else:
            found[paths[i]] = x_TD
    return found


def _write_shard(path: Path, rows: dict[str, Tensor], meta: dict[str, str]) -> None:
    tensors = {
        "features": torch.cat(list(rows.values())).numpy(),
        "lengths": np.array([len(x) for x in rows.values()]),
        "items": np.frombuffer(json.dumps(list(rows)).encode(), np.uint8),
    }
    save_tensors(path, tensors, meta)


def _read_shard(path: Path) -> tuple[Tensor, np.ndarray, list[str]]:
    """Rows, which stay on disk until they are used, how many each item has, and the items."""
    try:
        with safe_open(str(path), "pt") as file:
            items = json.loads(file.get_tensor("items").numpy().tobytes())
            return file.get_tensor("features"), file.get_tensor("lengths").numpy(), items
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Delete it; what it held is computed again."
        ) from None
