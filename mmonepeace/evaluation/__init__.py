"""Metrics over embeddings, registered in METRICS."""

from mmonepeace.evaluation.retrieval import ClassPromptHook, RecallAtK, ZeroShotAccuracy

__all__ = ["ClassPromptHook", "RecallAtK", "ZeroShotAccuracy"]
