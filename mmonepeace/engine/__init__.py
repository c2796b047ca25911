"""Training: runner, loop, hooks, optimiser and strategy, registered in the MM registries."""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
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
    from mmonepeace.engine.launching import launch
    from mmonepeace.engine.optim import BFloat16OptimWrapper, LayerDecayOptimWrapperConstructor
    from mmonepeace.engine.runner import FinetuneRunner, PretrainRunner
    from mmonepeace.engine.strategy import FSDP2Strategy
    from mmonepeace.engine.terminal import LoggerHook, quiet_terminal
    from mmonepeace.engine.train_loop import EndlessTrainLoop, EpochTrainLoop

__all__ = [
    "BFloat16OptimWrapper", "CheckpointHook", "CheckpointMetadataHook", "DivergedError",
    "DivergenceHook", "EndlessTrainLoop", "EpochTrainLoop", "FSDP2Strategy", "FinetuneRunner",
    "InterruptionHook", "LabelCheckHook", "LayerDecayOptimWrapperConstructor", "LoggerHook",
    "MeanLogHook", "PretrainRunner", "StepSeedHook", "ThroughputHook", "launch",
    "quiet_terminal",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
