"""What is checked before a run starts, so that a mistake costs seconds and its fix is named."""

from mmonepeace.checks.data import (
    check_classes,
    check_data,
    dataset_configs,
    metric_configs,
)
from mmonepeace.checks.environment import check_library, check_operators, read_config
from mmonepeace.checks.errors import CheckError, is_detection
from mmonepeace.checks.overrides import apply_overrides
from mmonepeace.checks.preflight_run import check_all, dry_run
from mmonepeace.checks.report import Finding, Report
from mmonepeace.checks.run import examine
from mmonepeace.checks.tokenizers import check_tokenizers, text_steps
from mmonepeace.checks.weights import check_weights, find_checkpoint

__all__ = [
    "CheckError",
    "Finding",
    "Report",
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
    "examine",
    "find_checkpoint",
    "is_detection",
    "metric_configs",
    "read_config",
    "text_steps",
]
