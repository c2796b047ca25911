"""Threads of a run on a CPU whose cores other jobs use too."""

import os
import time
from pathlib import Path

import torch
from mmengine.dist import get_world_size

_STAT = Path("/proc/stat")
_SECONDS = 0.3


def choose_threads(before: int | None = None) -> str | None:
    """Compute with as many threads as cores are idle; OMP_NUM_THREADS, GPUs and ranks keep theirs.

    The threads of an operator wait for each other: one whose core is busy stops all. Two threads
    beside two other jobs on two cores took four times as long as one thread did (benchmarks/,
    recipes, 2026-11-29).

    Args:
        before: of the run that is resumed. It keeps them, since others would change its bits.

    Returns:
        what to tell the user if there are other threads than usual, or than before.
    """
    threads = threads_of_run()
    if threads is None or threads == before:
        return None
    given = "OMP_NUM_THREADS" in os.environ
    if before is not None:
        if given or before > threads:
            return (
                f"Threads: {threads}, before the run was stopped {before}: it does not end with the "
                "same bits."
            )
        torch.set_num_threads(before)
        return (
            f"Threads: {before} instead of {threads}, as before the run was stopped. OMP_NUM_THREADS "
            "sets the number, for other bits."
        )
    if threads == 1 or given or (idle := idle_cores()) is None:
        return None
    if (fewer := max(1, round(idle))) >= threads:
        return None
    torch.set_num_threads(fewer)
    return (
        f"Other jobs leave {idle:.1f} cores idle. Threads: {fewer} instead of {threads}, because one "
        "that waits for a core stops the others. OMP_NUM_THREADS sets the number."
    )


def threads_of_run() -> int | None:
    """Threads that the bits of a run depend on; None with a GPU, or with several processes."""
    alone = not torch.cuda.is_available() and get_world_size() == 1
    return torch.get_num_threads() if alone else None


def idle_cores() -> float | None:
    """Idle cores among those that this process may use, for a moment; None if nobody counts them."""
    before = _ticks()
    time.sleep(_SECONDS)
    after = _ticks()
    if before is None or after is None:
        return None
    idle = 0.0
    for core, (free, total) in after.items():
        passed = total - before[core][1]
        idle += (free - before[core][0]) / passed if passed else 1.0
    return idle


def _ticks() -> dict[int, tuple[int, int]] | None:
    """Core -> ticks that were free for this process, and all; None if Linux does not count all."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {-1}
    yields = os.getpriority(os.PRIO_PROCESS, 0) <= 0  # a job of lower priority, to this process
    ticks = {}
    try:
        for line in _STAT.read_text().splitlines():
            name, *values = line.split() or [""]
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
                _, nice, _, idle, wait, *_ = counts = [int(value) for value in values[:8]]
                ticks[int(name[3:])] = idle + wait + yields * nice, sum(counts)
    except (OSError, ValueError):
        return None
    return ticks if ticks.keys() == allowed else None
