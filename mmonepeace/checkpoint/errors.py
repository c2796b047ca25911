"""What reading and loading of checkpoints raise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from mmonepeace.exit_status import UserError

StateDict = dict[str, Tensor]


class CheckpointError(UserError):
    """A file that cannot be used, or weights that do not fit. The message is for the user."""


@contextmanager
def prefix_errors(subject: str | Path) -> Iterator[None]:
    """Begin the message of an error with the file or the parameter that it is about."""
    try:
        yield
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{subject}: {error}") from None


@contextmanager
def explain_broken_file(expected: str) -> Iterator[None]:
    """Turn whatever reading a broken file raises into one line that says what was expected."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001  (a broken file can fail in any way)
        reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
        raise CheckpointError(f"cannot be read: truncated or not {expected} ({reason}).") from None
