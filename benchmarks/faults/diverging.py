"""Runs whose loss becomes NaN: stopped, named, and with a finite checkpoint left."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.faults.material import STEPS, Journey
from benchmarks.faults.mutations import draw
from benchmarks.faults.processes import in_parallel, judge, run
from benchmarks.faults.report import Result
from mmonepeace import checkpoint
from mmonepeace.engine import StepSeedHook


@dataclass(frozen=True)
class Poisoned:
    """Done in the process of a run before it starts: from a step on, something is not finite.

    Attributes:
        step: from which on.
        what: "weight" or "gradient", of the first parameter of the model.
    """

    step: int
    what: str

    def __call__(self) -> None:
        """Change the hook that begins a step."""
        seed = StepSeedHook.before_train_iter

        def poison(hook: StepSeedHook, runner: Any, *args: Any, **kwargs: Any) -> None:
            seed(hook, runner, *args, **kwargs)
            parameter = next(p for p in runner.model.parameters() if p.requires_grad)
            if runner.iter + 1 >= self.step and self.what == "weight":
                parameter.data.fill_(torch.nan)
            elif runner.iter + 1 == self.step:
                parameter.register_hook(lambda gradient: gradient * torch.inf)

        StepSeedHook.before_train_iter = poison  # type: ignore[method-assign]


class Case(NamedTuple):
    """A run that diverges, and whether it saves a checkpoint before that."""

    name: str
    options: tuple[str, ...] = ()
    prepare: Poisoned | None = None
    saves: bool = False


_LR = "optim_wrapper.optimizer.lr=1e30 optim_wrapper.clip_grad=None param_scheduler=None"
CASES = (
    Case("learning rate of 1e30", tuple(_LR.split())),
    Case("weights", (), Poisoned(8, "weight"), True),
    Case("gradients", (), Poisoned(8, "gradient"), True),
    Case("gradients, not clipped", ("optim_wrapper.clip_grad=None",), Poisoned(10, "gradient"), True),
)  # fmt: skip


def is_finite(path: Path) -> bool:
    """Whether all weights of a checkpoint are finite."""
    return all(value.isfinite().all() for value in checkpoint.read(path)[0].values())


def try_diverging(
    journeys: dict[str, Journey], root: Path, seed: int, scale: float
) -> Iterator[Result]:
    """Let runs of all trainers diverge, with one checkpoint kept."""

    def attempt(item: tuple[Journey, Case, str]) -> Result:
        journey, case, precision = item
        work_dir = root / f"{journey.recipe.stem}_{CASES.index(case)}{precision}"
        keep = "default_hooks.checkpoint.max_keep_ckpts=1"
        flags = [precision] if precision else []
        arguments = journey.arguments(work_dir, *flags, "--cfg-options", keep, *case.options)
        done = run(*arguments, prepare=case.prepare)
        outcome, held = judge(done)
        outcome = {"accepted": "went on", "refused": "stopped"}.get(outcome, outcome)
        left = sorted(work_dir.glob("iter_*.pth"))
        if not all(map(is_finite, left)):
            outcome, held = "NaN checkpoint left", False
        elif case.saves and not left:
            outcome, held = "no checkpoint left", False
        elif held and "step" not in done.stderr:
            outcome, held = "step not named", False
        elif f"iter_{STEPS}.pth" in {path.name for path in left}:
            outcome, held = "went on", False
        name = f"{case.name} {precision}".strip()
        return Result(f"NaN: {journey.recipe.stem}", name, outcome, held, done.stderr)

    cases = [
        (journey, case, precision)
        for name, journey in journeys.items()
        for case in CASES
        for precision in ("", "--bf16")[: 1 if name == "detection" else 2]  # which bf16 excludes
    ]
    yield from in_parallel(attempt, draw(cases, seed, scale))
