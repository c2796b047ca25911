"""What is checked before a run starts, so that a mistake costs seconds and its fix is named."""

from mmonepeace.engine.preflight.data import (
    check_classes,
    check_data,
    dataset_configs,
    metric_configs,
    set_data_root,
)
from mmonepeace.engine.preflight.errors import PreflightError, is_detection
from mmonepeace.engine.preflight.modes import (
    set_launcher,
    set_precision,
    set_resume,
    set_stage,
    set_strategy,
    set_tta,
)
from mmonepeace.engine.preflight.operators import check_library, check_operators, read_config
from mmonepeace.engine.preflight.overrides import apply_overrides
from mmonepeace.engine.preflight.run import check_all, dry_run
from mmonepeace.engine.preflight.tokenizers import check_tokenizers, set_tokenizer, text_steps
from mmonepeace.engine.preflight.weights import check_weights, find_checkpoint

__all__ = [
    "PreflightError",
    "apply_overrides",
    "check_all",
    "check_classes",
    "check_data",
    "check_library",
    "check_operators",
    "check_tokenizers",
    "check_weights",
    "dataset_configs",
    "dry_run",
    "find_checkpoint",
    "is_detection",
    "metric_configs",
    "read_config",
    "set_data_root",
    "set_launcher",
    "set_precision",
    "set_resume",
    "set_stage",
    "set_strategy",
    "set_tokenizer",
    "set_tta",
    "text_steps",
]
