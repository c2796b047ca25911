"""How good results are: recall, accuracy, average precision, answers, boxes.

The metrics and the hook that they need are registered in METRICS and HOOKS.
"""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.evaluation.average_precision import MeanAveragePrecision
    from mmonepeace.evaluation.classification import Accuracy, Evaluation, evaluate
    from mmonepeace.evaluation.grounding import GroundingAccuracy
    from mmonepeace.evaluation.left_out import LeftOutHook
    from mmonepeace.evaluation.retrieval import Direction, RecallAtK, find_directions, summarise
    from mmonepeace.evaluation.segmentation import SegmentationEvaluation
    from mmonepeace.evaluation.vqa import VQAAccuracy
    from mmonepeace.evaluation.zero_shot import ClassPromptHook, ZeroShotAccuracy

__all__ = [
    "Accuracy", "ClassPromptHook", "Direction", "Evaluation", "GroundingAccuracy", "LeftOutHook",
    "MeanAveragePrecision", "RecallAtK", "SegmentationEvaluation", "VQAAccuracy",
    "ZeroShotAccuracy", "evaluate", "find_directions", "summarise",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
