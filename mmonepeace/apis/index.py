"""A searchable file of embeddings.

Shapes: N items, Q queries, D width.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from mmonepeace.atomic_file import atomic_file

FORMAT = "mmonepeace-index"
CHUNK = 65_536  # rows compared at once


def save_tensors(path: Path, tensors: dict[str, np.ndarray], meta: dict[str, str]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OSError: if the disk is full or the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(path, concurrent=True) as temporary:
            save_file(tensors, temporary, meta)
    except (SafetensorError, OSError) as error:
        raise OSError(f"{path} cannot be written: {error}. Is the disk full?") from None


def search(
    query: np.ndarray | Tensor, index: "np.ndarray | Tensor | EmbeddingIndex", k: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar rows for each query.

    Args:
        query: (Q, D) or (D,) of unit length.
        index: (N, D) of unit length, or an index; NaN rows come last, with a score of minus
            infinity.
        k: how many; fewer if there are fewer rows.

    Returns:
        scores (Q, k), best first, and their rows (Q, k).

    Raises:
        ValueError: if k is below 1, or widths differ.
    """
    queries = torch.from_numpy(np.atleast_2d(np.asarray(query))).float()
    embeddings = np.asarray(getattr(index, "embeddings", index))
    if k < 1 or queries.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"k is {k}, queries have {queries.shape[1]} numbers, embeddings {embeddings.shape[1]}; "
            "expected k of at least 1, and queries of the model that made the embeddings."
        )
    scores = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(embeddings), CHUNK):
        part = torch.from_numpy(np.ascontiguousarray(embeddings[start : start + CHUNK])).float()
        cosines = (queries @ part.t()).nan_to_num(nan=-torch.inf)
        found = torch.arange(start, start + len(part)).expand(len(queries), -1)
        scores, rows = torch.cat([scores, cosines], 1), torch.cat([rows, found], 1)
        scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
        rows = rows.gather(1, best)
    return scores.numpy(), rows.numpy()


@dataclass
class EmbeddingIndex:
    """Embeddings with what they stand for.

    Attributes:
        embeddings: (N, D) float32 of unit length.
        items: for each row, its `modality` and its `text`, or its `path` from `folder`.
        meta: `checkpoint` they were made with, its `fingerprint`, and anything else.
        folder: where the paths of items start. It is not saved: for a loaded index it is the folder
            of the file, so an index that moves together with its data stays whole.
    """

    embeddings: np.ndarray
    items: list[dict[str, Any]]
    meta: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.items):
            raise ValueError(f"{len(self.embeddings)} embeddings for {len(self.items)} items.")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically.

        Raises:
            OSError: if the disk is full or the folder cannot be written to.
        """
        # A tensor: the header, where metadata go, is limited to 100 MB.
        items = np.frombuffer(json.dumps(self.items).encode(), np.uint8)
        tensors = {"embeddings": np.ascontiguousarray(self.embeddings), "items": items}
        save_tensors(Path(path), tensors, {**self.meta, "format": FORMAT})

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingIndex":
        """Read a file that `save` wrote.

        Raises:
            ValueError: if it is missing or no such file.
        """
        try:
            with safe_open(str(path), "numpy") as file:
                meta = file.metadata() or {}
                if meta.pop("format", None) != FORMAT:
                    raise ValueError(f"{path}: is no index. Make one with tools/embed.py.")
                items = json.loads(file.get_tensor("items").tobytes())
                return cls(file.get_tensor("embeddings"), items, meta, Path(path).resolve().parent)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{path} cannot be read as an index: {error}. Make one with tools/embed.py."
            ) from None

    def content(self, item: dict[str, Any]) -> str | Path:
        """What an item stands for: its text, or the path of its file."""
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
