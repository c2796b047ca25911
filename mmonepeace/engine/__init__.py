"""Engine parts registered in the MM registries, and the checks before a run."""

from mmonepeace.checks.labels import LabelCheckHook
from mmonepeace.engine.metadata import CheckpointMetadataHook
from mmonepeace.engine.optim import BFloat16OptimWrapper, LayerDecayOptimWrapperConstructor
from mmonepeace.engine.runner import (
    EndlessTrainLoop,
    MeanLogHook,
    PretrainRunner,
    StepSeedHook,
    ThroughputHook,
)
from mmonepeace.engine.strategy import FSDP2Strategy

__all__ = [
    "BFloat16OptimWrapper",
    "CheckpointMetadataHook",
    "EndlessTrainLoop",
    "FSDP2Strategy",
    "LabelCheckHook",
    "LayerDecayOptimWrapperConstructor",
    "MeanLogHook",
    "PretrainRunner",
    "StepSeedHook",
    "ThroughputHook",
]
