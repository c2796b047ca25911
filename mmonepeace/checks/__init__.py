"""What would ruin a run: each fault has one check, and each check serves two depths.

`check_run` and `check_data` are quick and serve the tools before every run; `examine` reads every
file for `mmonepeace doctor`.
"""

from typing import TYPE_CHECKING

from mmonepeace.lazy_names import lazy_names

if TYPE_CHECKING:
    from mmonepeace.checks.classes import check_heads
    from mmonepeace.checks.config import dataset_configs, is_detection, metric_configs, text_steps
    from mmonepeace.checks.environment import check_operators, read_config
    from mmonepeace.checks.explanations import explain
    from mmonepeace.checks.heads import has_mask_head
    from mmonepeace.checks.label_hook import LabelCheckHook
    from mmonepeace.checks.overrides import apply_overrides
    from mmonepeace.checks.overrides_action import OverridesAction
    from mmonepeace.checks.report import CheckError, Finding, Report
    from mmonepeace.checks.run import check_data, check_run, check_settings, examine
    from mmonepeace.checks.step_estimate import Estimate, estimate_step
    from mmonepeace.checks.trial_steps import dry_run

__all__ = [
    "CheckError", "Estimate", "Finding", "LabelCheckHook", "OverridesAction", "Report",
    "apply_overrides", "check_data", "check_heads", "check_operators", "check_run",
    "check_settings", "dataset_configs", "dry_run", "estimate_step", "examine", "explain", "has_mask_head", "is_detection",
    "metric_configs", "read_config", "text_steps",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(__name__)
