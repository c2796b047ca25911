"""A searchable file of embeddings.

Shapes: N items, D width.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from mmonepeace.apis.embedder import Embedder
from mmonepeace.apis.feature_cache import SETTINGS, embedder_settings
from mmonepeace.apis.item_list import MODALITIES, ItemList
from mmonepeace.apis.tensor_file import Rows, map_tensors, save_tensors
from mmonepeace.apis.vector_search import search

FORMAT = "mmonepeace-index"


class _NotAnIndexError(ValueError):
    """Its message needs no more words."""


class EmbeddingIndex:
    """Embeddings, and the items that they are of.

    A loaded one stays on the disk: what is used of it is read.

    Attributes:
        embeddings: (N, D) float32 or float16 of unit length.
        items: for each row, its `modality` and its `text`, or its `path` from `folder`.
        meta: `checkpoint` they were made with, its `fingerprint`, and anything else.
        folder: that paths of items are relative to. It is not saved: for a loaded index it is the
            folder of the file, so an index can move together with its data.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        items: Iterable[dict[str, Any]],
        meta: dict[str, str] | None = None,
        folder: Path = Path(),
    ) -> None:
        self.embeddings = embeddings
        self.items = items if isinstance(items, ItemList) else ItemList.of(items)
        self.meta, self.folder = meta or {}, folder
        if len(self.embeddings) != len(self.items):
            raise ValueError(f"{len(self.embeddings)} embeddings for {len(self.items)} items.")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically; an OSError says if that is impossible."""
        kind = np.float16 if self.embeddings.dtype == np.float16 else np.float32
        save_index(path, np.asarray(self.embeddings, kind), self.items, self.meta)

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingIndex":
        """Read a file that `save` wrote; a ValueError says if it is missing or not such a file."""
        try:
            meta, tensors = map_tensors(path)
            meta = {k: _unescape(v) for k, v in meta.items()}
            if meta.pop("format", None) != FORMAT:
                raise _NotAnIndexError(f"{path}: is not an index. Make one with mmonepeace embed.")
            embeddings, text = tensors["embeddings"], tensors["items"]
            if "item_starts" in tensors:
                items = ItemList(text, tensors["item_starts"], tensors["modalities"])
            else:  # of before 2026-11-30
                items = ItemList.of(json.loads(text.tobytes()))
            if embeddings.ndim != 2 or not items.is_whole() or not items.are_known():
                raise _NotAnIndexError(
                    f"{path}: its items or embeddings are damaged. Make it again."
                )
            return cls(embeddings, items, meta, Path(path).resolve().parent)
        except _NotAnIndexError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            reason = f"{path} cannot be read as an index: {error}"
            raise ValueError(f"{reason}. Make one with mmonepeace embed.") from None

    def content(self, item: dict[str, Any]) -> str | Path:
        """The text of an item, or the path of its file."""
        return item["text"] if "text" in item else self.folder / item["path"]

    def count(self, modality: str) -> int:
        """The number of items of one modality."""
        return int((self.items.modalities == MODALITIES.index(modality)).sum())

    def select(self, modality: str) -> "EmbeddingIndex":
        """The items of one modality: a view, of an index as `build_index` orders it."""
        found = np.flatnonzero(self.items.modalities == MODALITIES.index(modality))
        rows: np.ndarray | slice = found
        if len(found) and found[-1] - found[0] + 1 == len(found):
            rows = slice(int(found[0]), int(found[-1]) + 1)
        return EmbeddingIndex(self.embeddings[rows], self.items.take(rows), self.meta, self.folder)

    def search(self, query: np.ndarray, k: int) -> list[tuple[float, dict[str, Any]]]:
        """The best items for one query (D,), with their cosines."""
        scores, rows = search(query, self.embeddings, k)
        return [(float(s), self.items[r]) for s, r in zip(scores[0], rows[0], strict=True)]


def save_index(
    path: str | Path, embeddings: np.ndarray | Rows, items: ItemList, meta: dict[str, str]
) -> None:
    """Write the file of an index, whose embeddings may be computed meanwhile."""
    items = items.packed()
    tensors = {
        "embeddings": embeddings,
        "items": items.text,  # a tensor: the header, where metadata go, is limited to 100 MB
        "item_starts": items.starts,
        "modalities": items.modalities,
    }
    escaped = {k: _escape(v) for k, v in meta.items()}
    save_tensors(Path(path), tensors, {**escaped, "format": FORMAT})


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
            f"the index does not say its {', '.join(lacks)}. Run mmonepeace embed again."
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
                f"{ours[name]}). Name the right one with --{option}, or run mmonepeace embed again."
            )
    return embedder


def _escape(text: str) -> str:
    """Metadata are UTF-8, the paths among them may not be."""
    return text if text.isprintable() and not text.startswith('"') else json.dumps(text)


def _unescape(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') else text
