"""How good results are: recall, accuracy, average precision, answers, boxes.

The metrics and the hook that they need are registered in METRICS and HOOKS.
"""

from mmonepeace.evaluation.average_precision import MeanAveragePrecision
from mmonepeace.evaluation.classification import Accuracy, Evaluation, evaluate
from mmonepeace.evaluation.grounding import GroundingAccuracy
from mmonepeace.evaluation.left_out import LeftOutHook
from mmonepeace.evaluation.retrieval import Direction, RecallAtK, find_directions, summarise
from mmonepeace.evaluation.vqa import VQAAccuracy
from mmonepeace.evaluation.zero_shot import ClassPromptHook, ZeroShotAccuracy

__all__ = [
    "Accuracy", "ClassPromptHook", "Direction", "Evaluation", "GroundingAccuracy", "LeftOutHook",
    "MeanAveragePrecision", "RecallAtK", "VQAAccuracy", "ZeroShotAccuracy", "evaluate",
    "find_directions", "summarise",
]  # fmt: skip
