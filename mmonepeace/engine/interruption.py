"""Signals during training: a checkpoint at the end of the step, and a line that says how to go on."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine import hooks
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmonepeace.checkpoint import checkpoints_of_run
from mmonepeace.checks import CheckError
from mmonepeace.exit_status import (
    DISK_ERRORS,
    SIGNALS,
    Interrupted,
    defer_signals,
    describe,
    received_signal,
)
from mmonepeace.registry import HOOKS


@HOOKS.register_module()
class InterruptionHook(Hook):
    """End a run that has received SIGINT, SIGTERM or SIGUSR1, with a checkpoint of its last step.

    All processes stop at the same step, whichever received the signal. Workers of data loaders
    ignore signals, which launchers send to all processes: the step needs them.

    It does something only in tools, which run inside `exit_status`.
    """

    priority = "LOWEST"  # after CheckpointHook, which may have saved the step

    def before_train(self, runner: Runner) -> None:
        """Only note signals from now on."""
        defer_signals(True)
        self._parent = os.getppid()
        _ignore_signals(runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Find how many batches all processes have, to agree after each."""
        _ignore_signals(runner.val_dataloader)
        self._batches = len(runner.val_dataloader)
        if get_world_size() > 1:
            batches = torch.tensor(self._batches)
            all_reduce(batches, "min")
            self._batches = int(batches)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop at the end of a step.

        Raises:
            Interrupted: after a signal.
        """
        if number := self._agree():
            self._stop(runner, number, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """Stop within an evaluation: its step is complete.

        Raises:
            Interrupted: after a signal.
        """
        is_training = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        if is_training and batch_idx < self._batches and (number := self._agree()):
            self._stop(runner, number, runner.iter)

    def _agree(self) -> int:
        """The signal that any process has received, or 0."""
        number = received_signal() or 0
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self._parent:
            number = signal.SIGTERM  # the launcher is gone, and nobody else would end this process
        if get_world_size() > 1:
            votes = torch.tensor(float(number))
            all_reduce(votes, "max")
            number = int(votes)
        return number

    def _stop(self, runner: Runner, number: int, step: int) -> None:
        saving = next((h for h in runner.hooks if isinstance(h, hooks.CheckpointHook)), None)
        where = "no checkpoint: the recipe has no CheckpointHook"
        if saving is not None:
            saving.save_now(runner, step)
            where = f"saved as {saving.last_ckpt}. Go on with: {resume_command(runner.work_dir)}"
        raise Interrupted(number, f"stopped after step {step} of {runner.max_iters}, {where}")


@contextmanager
def explain_disk_errors(work_dir: str | Path) -> Iterator[None]:
    """Say, when the disk of a run fails, which checkpoint is left and how to go on.

    Raises:
        CheckError: in place of an OSError of the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        last = next(iter(checkpoints_of_run(work_dir)), None)
        left = (
            f"The last complete checkpoint: {last}. Then"
            if last
            else "No checkpoint is there. Then"
        )
        raise CheckError(
            f"{describe(error)} {left} go on with: {resume_command(work_dir)}"
        ) from None


class _IgnoreSignals:
    """What a worker does first: ignore signals, then what it did before."""

    def __init__(self, init: Callable[[int], Any] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.init is not None:
            self.init(worker)


def _ignore_signals(loader: Any) -> None:
    loader = getattr(loader, "loader", loader)  # of an `EndlessLoader`
    if not isinstance(loader.worker_init_fn, _IgnoreSignals):
        loader.worker_init_fn = _IgnoreSignals(loader.worker_init_fn)


def resume_command(work_dir: str | Path) -> str:
    """The command that goes on with the run of this process."""
    if get_world_size() > 1:
        return f"the command of this run with --resume (--work-dir {shlex.quote(str(work_dir))})"
    program, *given = sys.argv
    words: list[str] = []
    for before, word in zip(["", *given], given, strict=False):
        is_path = before == "--resume" and not word.startswith("-")
        if word.partition("=")[0] != "--resume" and not is_path:
            words.append(word)
    if not any(word.partition("=")[0] == "--work-dir" for word in words):
        words += ["--work-dir", str(work_dir)]
    python = "" if program.startswith("mmonepeace ") else "python "
    return f"{python}{program} {shlex.join([*words, '--resume'])}"
