"""When garbage is looked for: not during imports, and afterwards not among what was imported.

Half a million objects of modules stay until the end, and a look at all of them takes half a second.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """Look for no garbage: for code that makes much that stays, and little else."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # makes all of it old, else it would be looked at now
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@contextmanager
def only_new_garbage() -> Iterator[None]:
    """Look for garbage only among what is made from now on."""
    is_outermost = not gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if is_outermost:
            gc.unfreeze()
