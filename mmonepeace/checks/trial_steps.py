"""The dry run: some real steps and a batch of validation, in a folder that is thrown away."""

import math
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner, Runner
from mmengine.visualization import Visualizer

from mmonepeace.checks.best_score import unknown_best
from mmonepeace.checks.consistency import late_schedules
from mmonepeace.checks.explanations import explain
from mmonepeace.checks.report import CheckError
from mmonepeace.datasets.broken_samples import TooManyBrokenError

AnyRunner: TypeAlias = Runner | FlexibleRunner
_FOLDER = "mmonepeace_dry_run_"
_STEPS = 4  # the first is a warm-up
_BATCHES = 3  # of the validation, of which the first is one too


class _EnoughError(Exception):
    """Ends a loop of MMEngine after the steps that a dry run takes."""


def dry_run(cfg: Config, build: Callable[[Config], AnyRunner]) -> str:
    """Train some steps as the config says, evaluate a few batches, and forget all of it.

    Args:
        cfg: the config; its work directory is not touched.
        build: makes a runner from it.

    Returns:
        what a run needs: memory, seconds per step, length.

    Raises:
        CheckError: naming the key of the config that made a step fail.
    """
    if late := late_schedules(cfg):
        raise CheckError("\n".join(late))
    with explain(cfg, log=False), tempfile.TemporaryDirectory(prefix=_FOLDER) as folder:
        cfg.work_dir = folder
        try:
            return _run(build(cfg))
        except Exception as error:
            from_worker = isinstance(error, TooManyBrokenError) and error.__context__ is None
            if not from_worker and "DataLoader worker" not in str(error):
                raise
            # Once more without workers, whose errors do not say where in the config they are from.
            for name in ("train_dataloader", "val_dataloader"):
                if cfg.get(name):
                    cfg[name].update(num_workers=0, persistent_workers=False, prefetch_factor=None)
            _close_visualizers()
            _run(build(cfg))
            raise
        finally:
            _close_visualizers()  # before their folder goes


def _close_visualizers() -> None:
    for visualizer in Visualizer._instance_dict.values():
        visualizer.close()
    Visualizer._instance_dict.clear()


def _run(runner: AnyRunner) -> str:
    steps = _StepTimer()
    runner.register_hook(steps)
    with suppress(_EnoughError):
        runner.train()
    if not steps.seconds:
        done = f"{runner.iter} of {runner.max_iters} steps"
        raise CheckError(f"train_cfg: the run has no step to do, {done} are done.")
    batches = _validate(runner) if runner._val_loop is not None else None
    return _summary(runner, steps, batches)


class _StepTimer(Hook):
    """Measures steps, checks their losses, and ends the loop."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.sizes = ""
        self.first = 0  # step of the run
        self._start = 0.0

    def before_train(self, runner: AnyRunner) -> None:
        """Let the first step update the weights; save nothing."""
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapper):
            wrapper._inner_count = wrapper._accumulative_counts - 1
        runner._hooks = [h for h in runner._hooks if not isinstance(h, CheckpointHook)]
        self.first = runner.iter
        self._start = time.perf_counter()

    def after_train_iter(
        self,
        runner: AnyRunner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Note a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._start)
        self.losses.append(_total_loss(runner, outputs or {}, len(self.seconds)))
        if len(self.seconds) == 1:
            self.sizes = _sizes(data_batch)
        if len(self.seconds) >= min(_STEPS, runner.max_iters):
            raise _EnoughError
        self._start = time.perf_counter()


def _total_loss(runner: AnyRunner, outputs: dict[str, Any], step: int) -> float:
    """The loss of a step, which must be finite."""
    losses = {k: float(v.detach()) for k, v in outputs.items() if "loss" in k}
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        rate = runner.cfg.optim_wrapper.get("optimizer", {}).get("lr")
        after = (
            "Look at the normalisation, the labels and the weights that the run starts from."
            if step == 1
            else f"Lower optim_wrapper.optimizer.lr, which is {rate:g}, or set "
            "optim_wrapper.clip_grad.max_norm."
        )
        raise CheckError(
            f"{', '.join(bad)} of step {step} is {losses[bad[0]]}, not finite. {after}"
        )
    return losses.get("loss", math.nan)


def _sizes(batch: Any) -> str:
    inputs = batch["inputs"]
    by_name = inputs if isinstance(inputs, dict) else {"image": inputs}
    first = ", ".join(f"{name} {tuple(value[0].shape)}" for name, value in by_name.items())
    return f"a batch of {len(batch['data_samples'])} whose first has {first}"


@dataclass
class _Validation:
    """What a few batches of the validation showed: their seconds, and the number of all batches."""

    total: int
    seconds: list[float] = field(default_factory=list)


def _validate(runner: AnyRunner) -> _Validation:
    """Predict a few batches and evaluate them, with the hooks of a validation."""
    loop: Any = runner.val_loop
    validation = _Validation(len(loop.dataloader))
    for name in ("before_val", "before_val_epoch"):
        runner.call_hook(name)
    runner.model.eval()
    start, samples = time.perf_counter(), 0
    for index, batch in enumerate(loop.dataloader):
        loop.run_iter(index, batch)
        samples += len(batch["data_samples"]) * get_world_size()
        now = time.perf_counter()
        validation.seconds.append(now - start)
        start = now
        if index + 1 >= _BATCHES:
            break
    metrics = loop.evaluator.evaluate(min(samples, len(loop.dataloader.dataset)))
    if lines := list(unknown_best(runner.cfg, metrics)):
        raise CheckError("\n".join(lines))
    runner.call_hook("after_val_epoch", metrics=metrics)
    runner.call_hook("after_val")
    return validation


def _summary(runner: AnyRunner, steps: _StepTimer, validation: _Validation | None) -> str:
    parameters = list(runner.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    timed = steps.seconds[1:] or steps.seconds
    step = sum(timed) / len(timed)
    loader: Any = runner.train_dataloader
    dataset = getattr(loader, "dataset", loader)
    samples = getattr(dataset, "total", None) or len(dataset)  # a stream has no len
    left = runner.max_iters - steps.first
    length = left * step
    how = f"{left:,} steps"
    if validation is not None and validation.seconds:
        seconds = validation.seconds[1:] or validation.seconds
        each = validation.total * sum(seconds) / len(seconds)
        times = _validations(runner, steps.first)
        length += times * each
        how += (
            f", and {times} validation{'s' * (times != 1)} of {validation.total:,} batches, "
            f"{_time(each)} each"
        )
    memory = _memory() + (" in each process" if get_world_size() > 1 else "")
    model = f"{sum(p.numel() for p in parameters):,} parameters, {trained:,} of them trained"
    first, last = steps.seconds[0], len(steps.seconds)
    lines = [
        f"dry run: {model}; {samples:,} training samples, {steps.sizes}",
        f"memory: up to {memory}",
        f"time per step: {step:.3g} s with loading, mean of steps 2 to {last}; the first took {first:.3g} s",
        f"loss: {', '.join(f'{loss:.4g}' for loss in steps.losses)}",
        f"length of the run: about {_time(length)} for {how}, estimated from these",
    ]
    if steps.first:
        lines.append(f"resumed: {steps.first:,} of {runner.max_iters:,} steps were done before")
    lines.append("Nothing was trained or written.")
    return "\n".join(lines)


def _validations(runner: AnyRunner, first: int) -> int:
    """Number of validations from a step to the end."""
    loop: Any = runner.train_loop
    by_epoch = "Epoch" in type(loop).__name__
    end, now = (runner.max_epochs, runner.epoch) if by_epoch else (runner.max_iters, first)
    points = {*range(loop.val_interval, end + 1, loop.val_interval), end}
    return sum(1 for point in points if point > now and point >= loop.val_begin)


def _memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_reserved() / 2**30:.2f} GiB of the GPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"{peak:.2f} GiB of RAM, with all libraries and without the workers"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes} min"
