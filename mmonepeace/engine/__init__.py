"""Training: runner, loop, hooks, optimiser and strategy, registered in the MM registries."""

from mmonepeace.checks import LabelCheckHook
from mmonepeace.engine.checkpoint_hook import CheckpointHook
from mmonepeace.engine.divergence import DivergedError, DivergenceHook
from mmonepeace.engine.hooks import (
    CheckpointMetadataHook,
    MeanLogHook,
    StepSeedHook,
    ThroughputHook,
)
from mmonepeace.engine.interruption import InterruptionHook
from mmonepeace.engine.optim import BFloat16OptimWrapper, LayerDecayOptimWrapperConstructor
from mmonepeace.engine.runner import FinetuneRunner, PretrainRunner
from mmonepeace.engine.strategy import FSDP2Strategy
from mmonepeace.engine.terminal import LoggerHook
from mmonepeace.engine.train_loop import EndlessTrainLoop, EpochTrainLoop

__all__ = [
    "BFloat16OptimWrapper", "CheckpointHook", "CheckpointMetadataHook", "DivergedError",
    "DivergenceHook", "EndlessTrainLoop", "EpochTrainLoop", "FSDP2Strategy", "FinetuneRunner",
    "InterruptionHook", "LabelCheckHook", "LayerDecayOptimWrapperConstructor", "LoggerHook",
    "MeanLogHook", "PretrainRunner", "StepSeedHook", "ThroughputHook",
]  # fmt: skip
