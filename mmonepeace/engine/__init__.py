"""Engine parts registered in the MM registries, and the checks before a run."""

from mmonepeace.engine.labels import LabelCheckHook
from mmonepeace.engine.metadata import CheckpointMetadataHook
from mmonepeace.engine.optim import BFloat16OptimWrapper, LayerDecayOptimWrapperConstructor

__all__ = [
    "BFloat16OptimWrapper",
    "CheckpointMetadataHook",
    "LabelCheckHook",
    "LayerDecayOptimWrapperConstructor",
]
