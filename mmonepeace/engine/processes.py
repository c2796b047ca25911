"""How a tool exits when it is one process of a distributed run."""

import atexit
import os
import sys
from typing import Any, NoReturn


def exit_distributed(code: int) -> NoReturn:
    """Leave the process group, then exit with a status.

    Threads of gloo outlive their group. One that frees a tensor while the interpreter shuts down
    aborts the process, and a run that has done all its work counts as failed (PyTorch issue
    190489). So a process of a group skips the shutdown of the interpreter, after its exit handlers;
    so does one that a signal has stopped, whose threads may still be at work.
    """
    dist: Any = sys.modules.get("torch.distributed")  # None before anything was run
    is_grouped = dist is not None and dist.is_initialized()
    if is_grouped or code > 128:
        if is_grouped:
            dist.destroy_process_group()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
