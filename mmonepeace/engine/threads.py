"""Threads of a run on a CPU whose cores other jobs use too."""

import os
import time
from pathlib import Path

import torch
from mmengine.dist import get_world_size

_STAT = Path("/proc/stat")
_SECONDS = 0.3


def choose_threads(before: int | None = None) -> str | None:
    """Compute with as many threads as cores are idle; with a GPU, OMP_NUM_THREADS or ranks, all stay.

    The threads of an operator wait for each other: one whose core is busy stops all. Two threads
    beside two other jobs on two cores took four times as long as one thread did.

    Args:
        before: of the run that is resumed. It keeps them, since others would change its bits.

    Returns:
        what to tell the user if there are now fewer.
    """
    threads = torch.get_num_threads()
    given = "OMP_NUM_THREADS" in os.environ or torch.cuda.is_available() or get_world_size() > 1
    if threads == 1 or given or not _STAT.exists():
        return None
    if before is not None:
        if before >= threads:
            return None
        torch.set_num_threads(max(1, before))
        return f"Threads: {before} instead of {threads}, as before the run was stopped."
    idle = idle_cores()
    if (fewer := max(1, round(idle))) >= threads:
        return None
    torch.set_num_threads(fewer)
    return (
        f"Other jobs leave {idle:.1f} cores idle. Threads: {fewer} instead of {threads}, because one "
        "that waits for a core stops the others. OMP_NUM_THREADS sets the number."
    )


def idle_cores() -> float:
    """Idle cores among those that this process may use, as Linux counts them for a moment."""
    before = _ticks()
    time.sleep(_SECONDS)
    after = _ticks()
    idle = 0.0
    for core, (free, total) in after.items():
        passed = total - before[core][1]
        idle += (free - before[core][0]) / passed if passed else 1.0
    return idle


def _ticks() -> dict[int, tuple[int, int]]:
    """Core -> ticks that it was idle, and all; of user, nice, system, idle, iowait and so on."""
    ticks = {}
    allowed = os.sched_getaffinity(0)
    for line in _STAT.read_text().splitlines():
        name, *values = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            counts = [int(value) for value in values[:8]]
            ticks[int(name[3:])] = counts[3] + counts[4], sum(counts)
    return ticks
