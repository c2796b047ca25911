"""What reading and loading of checkpoints raise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

StateDict = dict[str, Tensor]


class CheckpointError(Exception):
    """A file that cannot be used, or weights that do not fit. The message is for the user."""


@contextmanager
def prefix_errors(subject: str | Path) -> Iterator[None]:
    """Put the file, or the parameter, in front of what is said about it."""
    try:
        yield
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{subject}: {error}") from None
