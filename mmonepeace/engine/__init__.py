"""Training: runner, loop, hooks, optimiser and strategy, registered in the MM registries."""

from mmonepeace.checks import LabelCheckHook
from mmonepeace.engine.divergence import DivergedError, DivergenceHook
from mmonepeace.engine.hooks import (
    CheckpointMetadataHook,
    MeanLogHook,
    StepSeedHook,
    ThroughputHook,
)
from mmonepeace.engine.interruption import InterruptionHook
from mmonepeace.engine.optim import BFloat16OptimWrapper, LayerDecayOptimWrapperConstructor
from mmonepeace.engine.runner import PretrainRunner
from mmonepeace.engine.strategy import FSDP2Strategy
from mmonepeace.engine.train_loop import EndlessTrainLoop

__all__ = [
    "BFloat16OptimWrapper", "CheckpointMetadataHook", "DivergedError", "DivergenceHook",
    "EndlessTrainLoop", "FSDP2Strategy", "InterruptionHook", "LabelCheckHook", "LayerDecayOptimWrapperConstructor",
    "MeanLogHook", "PretrainRunner", "StepSeedHook", "ThroughputHook",
]  # fmt: skip
