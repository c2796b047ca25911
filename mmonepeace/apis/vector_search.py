"""Embeddings compared: cosines, weighted sums, exact nearest neighbours.

Shapes: N and M embeddings, Q queries, D width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmonepeace.apis.tensor_file import as_tensor, let_go

Embeddings = np.ndarray | Tensor
CHUNK = 4096  # embeddings compared at once: they fit into the cache of a processor
LET_GO = 16 * CHUNK  # embeddings of a mapped file that are in memory


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
        index: (N, D) of unit length, in memory or a mapped file, float32 or float16; or an
            `EmbeddingIndex`. NaN rows score minus infinity.
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
    for start, chunk in _chunks(embeddings):
        cosines = queries @ chunk.t()
        best = cosines.amax(1)  # NaN if one of them is
        if not best.isfinite().all():
            cosines = cosines.nan_to_num(nan=-torch.inf)
            best = cosines.amax(1)
        if scores.shape[1] == k and not (best > scores[:, -1]).any():
            continue  # as nearly all chunks of a large index
        top, where = cosines.topk(min(k, len(chunk)), dim=1)
        scores, rows = torch.cat([scores, top], 1), torch.cat([rows, where + start], 1)
        scores, kept = scores.topk(min(k, scores.shape[1]), dim=1)
        rows = rows.gather(1, kept)
    return scores.numpy(), rows.numpy()


def _chunks(embeddings: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """First rows and float32 chunks; of a mapped file, pages that were read are let go."""
    rows = as_tensor(embeddings)
    buffer = torch.empty(min(CHUNK, len(rows)), rows.shape[1])  # new ones cost page faults
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        if chunk.dtype != buffer.dtype:
            chunk = buffer[: len(chunk)].copy_(chunk)
        yield start, chunk
        if start % LET_GO < CHUNK:
            let_go(embeddings)
