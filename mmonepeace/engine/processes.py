"""The processes of a run."""

import sys
from typing import NoReturn

from torch import distributed as dist


def end(code: int) -> NoReturn:
    """End a tool with an exit status, and leave the other processes of its run first.

    A process that ends with the group's threads still running aborts now and then.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.exit(code)
