"""Pretraining through MMEngine's runner, in such a way that a killed run goes on as if nothing had
happened.

A step is a function of the weights, the optimiser and the number of the step: data sets derive the
randomness of a sample from its number and epoch, samplers begin anywhere in their stream, and
`StepSeedHook` seeds what is random in the model. Hence a checkpoint stores no random state, and
neither evaluations nor workers change what comes after them.
"""

import logging
import math
import os
import random
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader, IterableDataset

from mmonepeace.registry import HOOKS, LOOPS, RUNNERS

_STEP = re.compile(r"iter_(\d+)\.pth")


@RUNNERS.register_module()
class PretrainRunner(Runner):
    """MMEngine's runner for `OnePeacePretrainer`.

    Checkpoints appear whole or not at all. `resume` without `load_from` takes the newest of the
    work directory that is whole. Weights are loaded strictly.

    Args:
        args: of `Runner`.
        stage_one: checkpoint that the second stage starts from, unless it is resumed.
        kwargs: of `Runner`.
    """

    def __init__(self, *args: Any, stage_one: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage_one = stage_one

    @classmethod
    def from_cfg(cls, cfg: Config) -> "PretrainRunner":
        """Build a runner from a config."""
        runner = super().from_cfg(cfg)
        runner.stage_one = cfg.get("stage_one")
        return runner

    def load_or_resume(self) -> None:
        """Go on from a checkpoint if there is one, else begin, the second stage with the first."""
        if self._has_loaded:
            return
        if self._resume and self._load_from is None:
            self._load_from = find_whole_checkpoint(self.work_dir)
            self._resume = self._load_from is not None
        super().load_or_resume()
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if self._has_loaded or not model.stage.frozen:
            return
        if self.stage_one:
            self.logger.info(str(model.load_stage_one(self.stage_one)))
        else:
            self.logger.warning(
                "this stage trains only one modality, and without stage_one all else stays at its "
                "random start. Give the checkpoint of the first stage: --stage-one CKPT"
            )
        self._has_loaded = True

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """Load weights; see `Runner`, but strict."""
        return super().load_checkpoint(filename, map_location, strict, **kwargs)

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint under a temporary name, then give it its own."""
        partial = Path(out_dir, f".{filename}.partial")
        super().save_checkpoint(out_dir, partial.name, *args, **kwargs)
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file with the final name
        partial.replace(Path(out_dir, filename))


def find_whole_checkpoint(work_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that is not damaged; the same in all processes.

    Files that are newer than the run's `last_checkpoint` belong to an earlier run.
    """
    found = [_newest_whole(Path(work_dir)) if is_main_process() else None]
    broadcast_object_list(found)
    return found[0]


def _newest_whole(folder: Path) -> str | None:
    steps = {int(m[1]): p for p in folder.glob("iter_*.pth") if (m := _STEP.fullmatch(p.name))}
    note = folder / "last_checkpoint"
    named = _STEP.search(note.read_text()) if note.is_file() else None
    last = int(named[1]) if named else max(steps, default=0)
    for step in sorted((step for step in steps if step <= last), reverse=True):
        if _is_whole(steps[step]):
            return str(steps[step])
        print_log(f"{steps[step]} is damaged; trying the one before.", "current", logging.WARNING)
    print_log(f"there is no checkpoint in {folder}; the run begins anew.", "current")
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file of torch.save has its end, and every part the checksum it was written with."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False


@LOOPS.register_module()
class EndlessTrainLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` over a stream that can begin anywhere: resuming reads nothing twice.

    The data set, if it is a stream, or else the sampler has `skip`, as `ShardDataset` and
    `EndlessSampler` do.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader = self.dataloader_iterator = EndlessLoader(self.dataloader)

    def run(self) -> torch.nn.Module:
        """Train; then let the workers go."""
        try:
            return super().run()
        finally:
            self.dataloader_iterator.close()


class EndlessLoader:
    """The batches of a data loader as one iterator without end.

    To MMEngine, which asks a data loader for its length, it has that of an epoch.

    Args:
        loader: the data loader.

    Raises:
        TypeError: if its stream cannot begin anywhere.
    """

    def __init__(self, loader: DataLoader) -> None:
        is_stream = isinstance(loader.dataset, IterableDataset)
        self.source = loader.dataset if is_stream else loader.sampler
        if not hasattr(self.source, "skip"):
            raise TypeError(
                f"{type(self.source).__name__} cannot begin in the middle, so no run could be "
                "resumed. Set train_dataloader.sampler.type to mmonepeace.EndlessSampler."
            )
        self.dataset = loader.dataset
        self.loader = loader
        self.batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        # A stream that had a length would be taken by torch for one with an end.
        samples = getattr(self.dataset, "total", None) or len(self.dataset)
        return math.ceil(samples / (self.loader.batch_size * get_world_size()))

    def skip_iter(self, number: int) -> None:
        """Begin after so many batches; MMEngine's loop calls it."""
        self.source.skip(number * self.loader.batch_size)

    def close(self) -> None:
        """End the workers; the garbage collector would wait 5 s for each of an endless stream."""
        self.batches = None

    def __next__(self) -> Any:
        if self.batches is None:
            self.batches = iter(self.loader)
        return next(self.batches)


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seed each training step with the run's seed, the process and the number of the step."""

    priority = "VERY_HIGH"

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Any] | None = None
    ) -> None:
        """Seed Python, NumPy and torch, GPUs included."""
        sequence = np.random.SeedSequence((runner.seed, runner.rank, runner.iter))
        (seed,) = sequence.generate_state(1).tolist()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Log `pairs_per_second` of all processes.

    Args:
        window_size: number of iterations that are averaged.
    """

    # After IterTimerHook, which is a default hook of this priority, and before LoggerHook.
    priority = "NORMAL"

    def __init__(self, window_size: int = 10) -> None:
        self.window_size = window_size

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Any] | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Divide pairs by time."""
        seconds = runner.message_hub.get_scalar("train/time").mean(self.window_size)
        pairs = len(data_batch["data_samples"]) * get_world_size()
        runner.message_hub.update_scalar("train/pairs_per_second", pairs / seconds)
