"""What a checkpoint says besides its weights, through MMEngine's runner."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmonepeace.registry import HOOKS


@HOOKS.register_module()
class CheckpointMetadataHook(Hook):
    """Store the backbone's metadata, such as its audio padding, in checkpoints, and follow it.

    For models with an `OnePeace` as `backbone`. A file that a runner saved without this hook is
    taken for one whose padding was masked.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add to `meta`."""
        checkpoint["meta"].update(_backbone(runner).metadata())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take what an earlier run stored."""
        _backbone(runner).adopt_metadata(checkpoint.get("meta") or {})


def _backbone(runner: Runner) -> Any:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model.backbone
