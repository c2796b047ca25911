"""A searchable file of embeddings, and how it is made from files and texts.

Shapes: N items, D width.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.feature_cache import (
    SETTINGS,
    FeatureCache,
    Shard,
    embedder_settings,
    item_keys,
    save_tensors,
)
from mmonepeace.apis.vector_search import search

FORMAT = "mmonepeace-index"


@dataclass
class EmbeddingIndex:
    """Embeddings, and the items that they are of.

    Attributes:
        embeddings: (N, D) float32 of unit length.
        items: for each row, its `modality` and its `text`, or its `path` from `folder`.
        meta: `checkpoint` they were made with, its `fingerprint`, and anything else.
        folder: that paths of items are relative to. It is not saved: for a loaded index it is the
            folder of the file, so an index can move together with its data.
    """

    embeddings: np.ndarray
    items: list[dict[str, Any]]
    meta: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.items):
            raise ValueError(f"{len(self.embeddings)} embeddings for {len(self.items)} items.")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically; an OSError says if that is impossible."""
        # A tensor: the header, where metadata go, is limited to 100 MB.
        items = np.frombuffer(json.dumps(self.items).encode(), np.uint8)
        tensors = {"embeddings": np.ascontiguousarray(self.embeddings), "items": items}
        meta = {k: _escape(v) for k, v in self.meta.items()}
        save_tensors(Path(path), tensors, {**meta, "format": FORMAT})

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingIndex":
        """Read a file that `save` wrote; a ValueError says if it is missing or not such a file."""
        try:
            with safe_open(str(path), "numpy") as file:
                meta = {k: _unescape(v) for k, v in (file.metadata() or {}).items()}
                if meta.pop("format", None) != FORMAT:
                    raise ValueError(f"{path}: is not an index. Make one with tools/embed.py.")
                items = json.loads(file.get_tensor("items").tobytes())
                embeddings = file.get_tensor("embeddings")
            if embeddings.ndim != 2 or not all(map(_is_item, items)):
                raise ValueError(f"{path}: its items or embeddings are damaged. Make it again.")
            return cls(embeddings, items, meta, Path(path).resolve().parent)
        except (OSError, SafetensorError, UnicodeDecodeError, JSONDecodeError, TypeError) as error:
            reason = f"{path} cannot be read as an index: {error}"
            raise ValueError(f"{reason}. Make one with tools/embed.py.") from None

    def content(self, item: dict[str, Any]) -> str | Path:
        """The text of an item, or the path of its file."""
        return item["text"] if "text" in item else self.folder / item["path"]

    def select(self, modality: str) -> "EmbeddingIndex":
        """The items of one modality."""
        rows = [i for i, item in enumerate(self.items) if item["modality"] == modality]
        items = [self.items[i] for i in rows]
        return EmbeddingIndex(self.embeddings[rows], items, self.meta, self.folder)

    def search(self, query: np.ndarray, k: int) -> list[tuple[float, dict[str, Any]]]:
        """The best items for one query (D,), with their cosines."""
        scores, rows = search(query, self.embeddings, k)
        return [(float(s), self.items[r]) for s, r in zip(scores[0], rows[0], strict=True)]


@dataclass
class Built:
    """What `build_index` did, in numbers of items."""

    index: EmbeddingIndex  # as it is saved now
    embedded: int  # went through the model
    kept: int  # known from the old index or from an interrupted run
    dropped: int  # of the old index, but no longer in the sources
    outdated: int  # of the old index, but made with other weights or settings
    failed: dict[str, str]  # path or text -> why it is not in the index


def build_index(
    embedder: Embedder,
    out: str | Path,
    sources: Mapping[str, Iterable[str | Path]],
    meta: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Built:
    """Bring an index to the state of its sources.

    Items that the file or an interrupted run already has are not embedded again: files of the same
    path, size and modification time, and texts, under the same weights and settings. Finished
    shards are kept in OUT.parts/ until the index is complete.

    Args:
        embedder: the model.
        out: the index. Paths are stored relative to its folder.
        sources: modality -> files or texts. This is all the index will hold; duplicates once.
        meta: more metadata, such as `checkpoint`.
        progress: called with the number of items done so far, and of all that are to be embedded.

    Raises:
        ValueError: if `out` is another kind of file, or nothing could be embedded.
        OSError: if the index or a shard cannot be written.
    """
    out = Path(out)
    folder, parts = out.resolve().parent, out.with_name(f"{out.name}.parts")
    meta = {**(meta or {}), **embedder_settings(embedder)}
    failed: dict[str, str] = {}
    wanted: dict[str, dict[str, str]] = {}  # modality -> key -> path or text
    for modality, values in sources.items():
        keys = item_keys(modality, values, folder, failed)
        wanted[modality] = {key: value for value, key in keys.items()}
    all_keys = [key for items in wanted.values() for key in items]

    def read(file: Path) -> Shard:
        return _reusable(EmbeddingIndex.load(file), meta)

    def write(file: Path, shard: Shard) -> None:
        keys, embeddings, _ = shard
        EmbeddingIndex(embeddings.numpy(), list(map(json.loads, keys)), meta).save(file)

    old = EmbeddingIndex.load(out) if out.exists() else EmbeddingIndex(np.empty((0, 0)), [])
    reusable = _reusable(old, meta)
    cache = FeatureCache(parts, read, write, failed)
    cache.add(reusable)
    kept = sum(key in cache for key in all_keys)
    done, total = 0, len(all_keys) - kept
    progress(done, total)
    for modality, items in wanted.items():
        todo = [(key, value) for key, value in items.items() if key not in cache]
        for count in cache.compute(embedder, modality, "embedding", todo, failed):
            done += count
            progress(done, total)
    keys = [key for key in all_keys if key in cache]
    if not keys:
        reasons = list(failed.values()) or ["there are no items."]
        raise ValueError(f"nothing could be embedded, {len(reasons)} failed; first: {reasons[0]}")
    embeddings = cache.take(keys).vectors().numpy()
    index = EmbeddingIndex(embeddings, list(map(json.loads, keys)), meta, folder)
    if (old.items, old.meta) != (index.items, meta):
        index.save(out)
    shutil.rmtree(parts, ignore_errors=True)
    names = {_name(json.loads(key)) for key in all_keys}
    dropped = sum(_name(item) not in names for item in old.items)
    outdated = len(old.items) - len(reusable[0])
    return Built(index, len(keys) - kept, kept, dropped, outdated, failed)


def embedder_of(
    index: EmbeddingIndex,
    checkpoint: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str | None = None,
) -> Embedder:
    """The model that made an index, for queries to it.

    Paths are those of now; None takes the recorded ones, or `tokenizer.json` beside the checkpoint.
    For the device see `Embedder.from_checkpoint`. A ValueError says if the checkpoint is gone, or
    is another one.
    """
    meta = index.meta
    if lacks := sorted(
        {"dtype", *SETTINGS["text"], *SETTINGS["image"], *SETTINGS["audio"]}
        - {*meta, "alpha", "fast_jpeg"}
    ):
        raise ValueError(
            f"the index does not say its {', '.join(lacks)}. Run tools/embed.py again."
        )
    path = Path(checkpoint or meta.get("checkpoint", ""))
    if path == Path() or not path.exists():
        raise ValueError(f"the index was made with {path}, which is gone. Name it: --checkpoint.")
    embedder = Embedder.from_checkpoint(
        path,
        device=device,
        dtype=meta["dtype"],
        tokenizer=tokenizer or meta.get("tokenizer"),
        image_size=int(meta["image_size"] or 0) or None,
        keep_ratio=meta["keep_ratio"] == "1",
        fast_jpeg=meta.get("fast_jpeg") == "1",
        alpha=meta.get("alpha") or "drop",
        window_seconds=float(meta["window_seconds"]),
        hop_seconds=float(meta["hop_seconds"]),
    )
    ours = embedder_settings(embedder)
    for name, option in (("fingerprint", "checkpoint"), ("tokenizer_fingerprint", "tokenizer")):
        if meta[name] and ours[name] and ours[name] != meta[name]:
            raise ValueError(
                f"the index was made with another {option} ({meta[name]}; that of {path} is "
                f"{ours[name]}). Name the right one with --{option}, or run tools/embed.py again."
            )
    return embedder


def _reusable(index: EmbeddingIndex, meta: Mapping[str, str]) -> Shard:
    """The items of an index whose modality has the same settings in `meta`."""
    fits = {
        m: all(index.meta.get(n, "") == meta[n] for n in names) for m, names in SETTINGS.items()
    }
    rows = [i for i, item in enumerate(index.items) if fits[item["modality"]]]
    keys = [json.dumps(index.items[i]) for i in rows]
    return keys, torch.from_numpy(index.embeddings[rows]), np.ones(len(rows), int)


def _escape(text: str) -> str:
    """Metadata are UTF-8, the paths among them may not be."""
    return text if text.isprintable() and not text.startswith('"') else json.dumps(text)


def _unescape(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text


def _is_item(item: Any) -> bool:
    return isinstance(item, dict) and item.get("modality") in SETTINGS and _name(item)[1] != ""


def _name(item: dict[str, Any]) -> tuple[str, str]:
    return item["modality"], item.get("text") or item.get("path", "")
