"""What users call: embeddings, search, zero-shot classification."""

from mmonepeace.apis.embedder import Embedder, combine, similarity
from mmonepeace.apis.index import EmbeddingIndex, search
from mmonepeace.apis.zero_shot import ZeroShotClassifier

__all__ = [
    "Embedder",
    "EmbeddingIndex",
    "ZeroShotClassifier",
    "combine",
    "search",
    "similarity",
]
