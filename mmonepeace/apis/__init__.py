"""What users call from Python: embeddings, search, zero-shot classification."""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.apis.embedder import Embedder
    from mmonepeace.apis.encoder_protocols import MtebEncoder, SentenceTransformerModule
    from mmonepeace.apis.index import EmbeddingIndex, embedder_of
    from mmonepeace.apis.index_building import build_index, build_part
    from mmonepeace.apis.index_export import export_index
    from mmonepeace.apis.parquet import write_parquet
    from mmonepeace.apis.predictor import Prediction, Predictor
    from mmonepeace.apis.sources import read_rows, read_table, read_texts
    from mmonepeace.apis.teacher_cache import TeacherCache
    from mmonepeace.apis.vector_search import combine, search, similarity
    from mmonepeace.apis.zero_shot import ZeroShotClassifier
    from mmonepeace.apis.zero_shot_segmentation import ZeroShotSegmentor
    from mmonepeace.checkpoint import ModelCard
    from mmonepeace.datasets.file_folders import find_files
    from mmonepeace.datasets.manifest import write_table
    from mmonepeace.evaluation import evaluate
    from mmonepeace.visualization import write_gallery

__all__ = [
    "Embedder", "EmbeddingIndex", "ModelCard", "MtebEncoder", "Prediction", "Predictor",
    "SentenceTransformerModule", "TeacherCache", "ZeroShotClassifier", "ZeroShotSegmentor", "build_index",
    "build_part", "combine", "embedder_of", "evaluate", "export_index", "find_files", "read_rows", "read_table",
    "read_texts", "search", "similarity", "write_gallery", "write_parquet", "write_table",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
