"""How good results are: recall, zero-shot accuracy, accuracy per class.

The metrics and the hook that they need are registered in METRICS and HOOKS.
"""

from mmonepeace.evaluation.classification import Evaluation, evaluate
from mmonepeace.evaluation.left_out import LeftOutHook
from mmonepeace.evaluation.retrieval import Direction, RecallAtK, find_directions, summarise
from mmonepeace.evaluation.zero_shot import ClassPromptHook, ZeroShotAccuracy

__all__ = [
    "ClassPromptHook", "Direction", "Evaluation", "LeftOutHook", "RecallAtK", "ZeroShotAccuracy",
    "evaluate", "find_directions", "summarise",
]  # fmt: skip
