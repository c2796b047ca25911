"""The processes of a run."""

import atexit
import os
import sys
from typing import NoReturn

from torch import distributed as dist


def exit_distributed(code: int) -> NoReturn:
    """End a tool with an exit status, and leave the other processes of its run first.

    Threads of gloo outlive their group. One that lets go of a tensor while Python takes itself
    down aborts the process, and a run that has done all its work counts as failed (PyTorch issue
    190489). So one of several processes ends without taking Python down, after all that was
    registered for the exit.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
