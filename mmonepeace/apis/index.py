"""A searchable file of embeddings.

Shapes: N items, Q queries, D width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FORMAT = "mmonepeace-index"
CHUNK = 65_536  # rows compared at once


def search(queries: np.ndarray, embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The most similar rows for each query.

    Args:
        queries: (Q, D) or (D,) of unit length.
        embeddings: (N, D) of unit length; NaN rows are never found.
        k: how many; fewer if there are fewer rows.

    Returns:
        scores (Q, k), best first, and their rows (Q, k).
    """
    queries = torch.from_numpy(np.atleast_2d(queries)).float()
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
        items: for each row, its `modality` and its `path` or `text`.
        meta: `checkpoint` they were made with, its `fingerprint`, and anything else.
    """

    embeddings: np.ndarray
    items: list[dict[str, Any]]
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.items):
            raise ValueError(f"{len(self.embeddings)} embeddings for {len(self.items)} items.")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        meta = {**self.meta, "format": FORMAT, "items": json.dumps(self.items, ensure_ascii=False)}
        try:
            save_file({"embeddings": np.ascontiguousarray(self.embeddings)}, temporary, meta)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

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
                return cls(file.get_tensor("embeddings"), json.loads(meta.pop("items")), meta)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot be read as an index ({error}).") from None

    def select(self, modality: str) -> "EmbeddingIndex":
        """The items of one modality."""
        rows = [i for i, item in enumerate(self.items) if item["modality"] == modality]
        return EmbeddingIndex(self.embeddings[rows], [self.items[i] for i in rows], self.meta)

    def search(self, query: np.ndarray, k: int) -> list[tuple[float, dict[str, Any]]]:
        """The best items for one query (D,), with their cosines."""
        scores, rows = search(query, self.embeddings, k)
        return [(float(s), self.items[r]) for s, r in zip(scores[0], rows[0], strict=True)]


def merge(parts: Sequence[EmbeddingIndex], meta: dict[str, str]) -> EmbeddingIndex:
    """One index of several."""
    return EmbeddingIndex(
        np.concatenate([part.embeddings for part in parts]),
        [item for part in parts for item in part.items],
        meta,
    )
