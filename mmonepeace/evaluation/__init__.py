"""Metrics over embeddings, registered in METRICS and HOOKS."""

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
    "ZeroShotAccuracy",
    "find_directions",
    "summarise",
]
