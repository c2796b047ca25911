"""Hooks of training: seeds, logged values, and what a checkpoint says besides its weights."""

import random
import resource
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmonepeace.registry import HOOKS

Data = dict[str, Any] | None  # a batch, or what a step returned


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seed each training step from the run's seed, the rank and the step number."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Data = None) -> None:
        """Seed Python, NumPy and torch, GPUs included."""
        sequence = np.random.SeedSequence((runner.seed, runner.rank, runner.iter))
        (seed,) = sequence.generate_state(1).tolist()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Log `pairs_per_second` over all processes and, without a GPU, the peak `memory` in MiB.

    Args:
        window_size: number of iterations to average over.
    """

    # After IterTimerHook, which is a default hook of this priority, and before LoggerHook.
    priority = "NORMAL"

    def __init__(self, window_size: int = 10) -> None:
        self.window_size = window_size

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any], outputs: Data = None
    ) -> None:
        """Log both."""
        seconds = runner.message_hub.get_scalar("train/time").mean(self.window_size)
        pairs = len(data_batch["data_samples"]) * get_world_size()
        runner.message_hub.update_scalar("train/pairs_per_second", pairs / seconds)
        if not torch.cuda.is_available():  # else MMEngine logs the GPU's
            kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            runner.message_hub.update_scalar("train/memory", kibibytes // 1024)


@HOOKS.register_module()
class MeanLogHook(Hook):
    """Log losses and accuracies averaged over all processes: those of the global batch."""

    priority = "HIGHEST"  # before RuntimeInfoHook logs them

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Data = None, outputs: Data = None
    ) -> None:
        """Average the outputs of a step in place."""
        if outputs and get_world_size() > 1:
            values = torch.stack([value.detach().float() for value in outputs.values()])
            all_reduce(values, "mean")
            outputs.update(zip(outputs, values.unbind(), strict=True))


@HOOKS.register_module()
class CheckpointMetadataHook(Hook):
    """Store in checkpoints what a model has to say besides its weights, and restore it.

    That is the metadata of its backbone, such as the audio padding, and its task, with the names of
    the classes. For models with an `OnePeace` as `backbone`. A checkpoint saved without this hook is
    assumed to have masked padding.
    """

    def before_train(self, runner: Runner) -> None:
        """Tell a classifier the names of its classes."""
        model = _bare_model(runner)
        if hasattr(model, "classes"):
            model.classes = runner.train_dataloader.dataset.metainfo.get("classes")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the metadata to `meta`."""
        model = _bare_model(runner)
        owner = model if hasattr(model, "metadata") else model.backbone
        checkpoint["meta"].update(owner.metadata())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adopt the metadata that an earlier run stored."""
        _bare_model(runner).backbone.adopt_metadata(checkpoint.get("meta") or {})


def _bare_model(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
