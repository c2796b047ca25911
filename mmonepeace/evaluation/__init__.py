"""Metrics over embeddings and pictures of them, registered in METRICS and HOOKS."""

from mmonepeace.evaluation.pictures import RetrievalGalleryHook, draw_direction
from mmonepeace.evaluation.retrieval import (
    ClassPromptHook,
    Direction,
    RecallAtK,
    ZeroShotAccuracy,
    find_directions,
    summarise,
)

__all__ = [
    "ClassPromptHook",
    "Direction",
    "RecallAtK",
    "RetrievalGalleryHook",
    "ZeroShotAccuracy",
    "draw_direction",
    "find_directions",
    "summarise",
]
