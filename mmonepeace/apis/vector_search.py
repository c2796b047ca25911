"""Embeddings compared: cosines, weighted sums, exact nearest neighbours.

Shapes: N and M embeddings, Q queries, D width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Embeddings = np.ndarray | Tensor
CHUNK = 65_536  # embeddings compared at once


def similarity(a: Embeddings, b: Embeddings) -> Embeddings:
    """(N, M) cosines of two sets of embeddings (N, D) and (M, D)."""
    return a @ b.T


def combine(*embeddings: Embeddings, weights: Sequence[float] | None = None) -> Embeddings:
    """Combine several queries into one: the weighted sum of embeddings, scaled to unit length.

    Each is (D,) or (N, D), of any modality, with a weight of 1 by default; a negative one steers
    away from it. Raises a ValueError if there are more or fewer weights, or everything cancels out.
    """
    weights = [1.0] * len(embeddings) if weights is None else list(weights)
    if len(weights) != len(embeddings) or not embeddings:
        raise ValueError(f"{len(embeddings)} embeddings with {len(weights)} weights.")
    total: Any = sum(torch.as_tensor(e) * w for e, w in zip(embeddings, weights, strict=True))
    if (total.norm(dim=-1) < 1e-6).any():
        raise ValueError(f"the embeddings cancel out with weights {weights}.")
    total = F.normalize(total, dim=-1)
    return total.numpy() if isinstance(embeddings[0], np.ndarray) else total


def search(query: Embeddings, index: Any, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar embeddings for each query.

    Args:
        query: (Q, D) or (D,) of unit length.
        index: (N, D) of unit length, or an `EmbeddingIndex`; NaN rows score minus infinity.
        k: number of results, at least 1; fewer if there are fewer rows.

    Returns:
        scores (Q, k), best first, and their rows (Q, k). A ValueError says if widths differ.
    """
    queries = torch.from_numpy(np.atleast_2d(np.asarray(query))).float()
    embeddings = np.asarray(getattr(index, "embeddings", index))
    if k < 1 or queries.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"k is {k}, queries have width {queries.shape[1]}, embeddings {embeddings.shape[1]}; "
            "expected k of at least 1, and queries of the model that made the embeddings."
        )
    scores = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(embeddings), CHUNK):
        chunk = torch.from_numpy(np.ascontiguousarray(embeddings[start : start + CHUNK])).float()
        cosines = (queries @ chunk.t()).nan_to_num(nan=-torch.inf)
        chunk_rows = torch.arange(start, start + len(chunk)).expand(len(queries), -1)
        scores, rows = torch.cat([scores, cosines], 1), torch.cat([rows, chunk_rows], 1)
        scores, best = scores.topk(min(k, scores.shape[1]), dim=1)
        rows = rows.gather(1, best)
    return scores.numpy(), rows.numpy()
