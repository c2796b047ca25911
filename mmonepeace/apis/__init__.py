"""What users call: embeddings, search, zero-shot classification."""

from mmonepeace.apis.embedder import Embedder, combine, similarity
from mmonepeace.apis.feature_cache import build_index, embedder_of
from mmonepeace.apis.index import EmbeddingIndex, search
from mmonepeace.apis.sources import find_files, read_rows, read_table, read_texts
from mmonepeace.apis.zero_shot import ZeroShotClassifier
from mmonepeace.evaluation import evaluate
from mmonepeace.visualization import write_gallery

__all__ = [
    "Embedder",
    "EmbeddingIndex",
    "ZeroShotClassifier",
    "build_index",
    "combine",
    "embedder_of",
    "evaluate",
    "find_files",
    "read_rows",
    "read_table",
    "read_texts",
    "search",
    "similarity",
    "write_gallery",
]
