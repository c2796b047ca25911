"""Runs of training that are killed or stopped, resumed, and compared with a run that was not."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.faults.material import INTERVAL, STEPS, Journey
from benchmarks.faults.processes import in_parallel, run, wait
from benchmarks.faults.report import Result
from mmonepeace import checkpoint
from mmonepeace.engine import StepSeedHook
from tests.processes import Tool

_CHANGES = ("open", "os.rename", "os.remove", "os.truncate", "shutil.rmtree")
_NAMES = ("iter_", "last_checkpoint", "best_")


@dataclass(frozen=True)
class Watched:
    """Done in the process of a run before it starts: note its steps, and perhaps kill it.

    Attributes:
        steps: file that gets a line for each step that begins.
        work_dir: of the run.
        change: the number of the change of a checkpoint or of the note that names the newest one
            (opened for writing, renamed, removed), at which the process kills itself; 0 for never.
        delay: seconds from that change on.
    """

    steps: Path
    work_dir: Path
    change: int = 0
    delay: float = 0.0

    def __call__(self) -> None:
        """Start to watch."""
        seed = StepSeedHook.before_train_iter

        def note(hook: StepSeedHook, runner: Any, *args: Any, **kwargs: Any) -> None:
            with self.steps.open("a") as file:
                file.write(f"{runner.iter + 1}\n")
            seed(hook, runner, *args, **kwargs)

        StepSeedHook.before_train_iter = note  # type: ignore[method-assign]
        if self.change:
            sys.addaudithook(self._count())

    def _count(self) -> Any:
        seen = 0

        def die() -> None:
            time.sleep(self.delay)
            os.kill(os.getpid(), signal.SIGKILL)

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event not in _CHANGES or not str(arguments[0]).startswith(str(self.work_dir)):
                return
            if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
                return
            if any(name in str(arguments[0]) for name in _NAMES):
                seen += 1
                if seen == self.change:
                    threading.Thread(target=die, daemon=True).start() if self.delay else die()

        return count


@dataclass(frozen=True)
class _Case:
    group: str
    journey: Journey
    folder: Path
    seed: tuple[int, ...]
    stop: signal.Signals
    keep: int
    at_write: bool
    seconds: float  # from the first step of a run to its end

    def __str__(self) -> str:
        where = "while a checkpoint is written" if self.at_write else "at any moment"
        return f"seed {self.seed}: {self.stop.name} {where}, max_keep_ckpts={self.keep}"


def _steps(path: Path) -> list[int]:
    return list(map(int, path.read_text().split())) if path.exists() else []


def _start(case: _Case, work_dir: Path, steps: Path, *options: Any, **kill: Any) -> Tool:
    keep = f"default_hooks.checkpoint.max_keep_ckpts={case.keep}"
    arguments = case.journey.arguments(work_dir, *options, "--cfg-options", keep)
    return Tool(*arguments, prepare=Watched(steps, work_dir, **kill))


def _stop_at_any_moment(tool: Tool, steps: Path, stop: signal.Signals, delay: float) -> None:
    while tool.runs and not steps.exists():
        time.sleep(0.02)
    time.sleep(delay)
    if tool.runs and tool.process.pid:
        os.kill(tool.process.pid, stop)


def _attempt(case: _Case) -> Result:
    rng = np.random.default_rng(case.seed)
    work_dir = case.folder / "_".join(map(str, case.seed))
    steps = [case.folder / f"{work_dir.name}_{i}.txt" for i in range(2)]
    kill = {}
    if case.at_write:
        kill = dict(change=int(rng.integers(1, 24)), delay=float(rng.choice([0, 0.001, 0.004])))
    tool = _start(case, work_dir, steps[0], **kill)
    if not case.at_write:
        _stop_at_any_moment(tool, steps[0], case.stop, float(rng.random()) * case.seconds)
    first = wait(tool)
    name = f"{case}, {kill}"

    def result(outcome: str, held: bool, detail: str = "") -> Result:
        return Result(case.group, name, outcome, held, detail)

    stopped = -case.stop if case.stop == signal.SIGKILL else 128 + case.stop
    if first.returncode not in (0, stopped):
        return result(f"exit code {first.returncode}", False, first.stderr)
    if "Traceback" in first.stderr + first.stdout:
        return result("traceback", False, first.stderr)
    done = wait(_start(case, work_dir, steps[1], "--resume"))
    if done.returncode or "Traceback" in done.stderr + done.stdout:
        return result("not resumed", False, done.stdout[-2000:] + done.stderr)
    before, after = map(_steps, steps)
    reached = max(before, default=1) - 1  # the last one may not have been finished
    lost = reached - (after[0] - 1) if after else 0
    if lost > (INTERVAL if case.stop == signal.SIGKILL else 0):
        return result(f"{lost} steps lost", False, first.stdout[-500:] + first.stderr)
    end = f"iter_{STEPS}.pth"
    if different := _differences(case.folder / "reference" / end, work_dir / end):
        return result("ends differently", False, f"{len(different)} tensors: {different[:3]}")
    return result("had ended" if not first.returncode else "bit-equal", True)


def _differences(a: Path, b: Path) -> list[str]:
    one, two = checkpoint.read(a)[0], checkpoint.read(b)[0]
    names = set(one) ^ set(two)
    return [*names, *(k for k in one if k not in names and not torch.equal(one[k], two[k]))]


def try_kills(journey: Journey, folder: Path, seed: int, count: int) -> Iterator[Result]:
    """Kill runs, half of them while they write a checkpoint, half with one checkpoint kept."""
    yield from _try(journey, folder, seed, count, signal.SIGKILL)


def try_signals(journey: Journey, folder: Path, seed: int, count: int) -> Iterator[Result]:
    """Stop runs as Ctrl-C does, and as schedulers do."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        yield from _try(journey, folder, seed, count, stop)


def _try(
    journey: Journey, folder: Path, seed: int, count: int, stop: signal.Signals
) -> Iterator[Result]:
    name = {"SIGKILL": "kill", "SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM"}[stop.name]
    folder = folder / journey.recipe.stem
    folder.mkdir(parents=True, exist_ok=True)
    reference, steps = folder / "reference", folder / "reference.txt"
    if not reference.exists():
        done = run(*journey.arguments(reference), prepare=Watched(steps, reference))
        if done.returncode:
            raise RuntimeError(f"a run that nothing stopped failed: {done}")
    seconds = _training_seconds(reference)
    kill = stop == signal.SIGKILL
    cases = [
        _Case(
            f"{name}: {journey.recipe.stem}", journey, folder, (seed, int(stop), i), stop,
            1 if i % 4 < 2 else 3, kill and i % 2 == 0, seconds,
        )
        for i in range(count)
    ]  # fmt: skip
    yield from in_parallel(_attempt, cases)


def _training_seconds(work_dir: Path) -> float:
    """From the first checkpoint of a run that keeps three to its last, times the rest."""
    times = [path.stat().st_mtime for path in work_dir.glob("iter_*.pth")]
    return (max(times) - min(times)) * STEPS / INTERVAL / max(len(times) - 1, 1)
