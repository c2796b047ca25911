"""What makes a sample broken: errors that say what is wrong with one file or text."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

_said: set[str] = set()  # kinds of warnings


class SampleError(ValueError):
    """A sample that cannot be used. The message gives the file, the problem and the fix."""

    kind: ClassVar[str] = "other"  # what a count of broken samples calls it


class MissingError(SampleError):
    """A file, or a member of a shard, that does not exist."""

    kind = "missing"


class ImageError(SampleError):
    """An image that cannot be used."""

    kind = "image"


class LabelError(SampleError):
    """Labels of an image that cannot be used."""

    kind = "label"


class CaptionError(SampleError):
    """A text that cannot be used."""

    kind = "text"


class AudioError(SampleError):
    """Audio that cannot be used."""

    kind = "audio"


class VideoError(SampleError):
    """A video that cannot be used."""

    kind = "video"


# In the order in which they are reported.
KINDS = ("missing", "image", "label", "text", "audio", "video", "other")


@contextmanager
def decoding(error: type[SampleError], name: object, fix: str) -> Iterator[None]:
    """Whatever a decoder raises becomes `error`: libraries have many ways to refuse a file.

    Args:
        error: what is raised.
        name: of the file, for the message.
        fix: what to do, for the message.
    """
    try:
        yield
    except error as refused:
        raise error(f"{name}: {refused}") from None
    except Exception as fault:  # noqa: BLE001  (decoders fail in many ways)
        raise error(f"{name} cannot be decoded: {reason(fault)} {fix}") from None


def reason(fault: BaseException) -> str:
    """What an exception of a library says, as a sentence."""
    if isinstance(fault, MemoryError):
        return "there is not enough memory for what it claims to hold."
    if isinstance(fault, OSError) and fault.strerror:
        text = fault.strerror
    elif str(fault) and isinstance(
        fault, ValueError | OSError | RuntimeError | SyntaxError | AssertionError
    ):
        text = str(fault)
    else:
        text = f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
    text = " ".join(text.split())
    return text if text.endswith(".") else f"{text}."


def check_exists(path: str | Path, error: type[SampleError] = MissingError) -> None:
    """Raise `error` if a path is not that of a file; also for names that no file can have."""
    if not os.path.isfile(path):
        raise error(f"{path}: no such file. Check the path and the data root.")


def warn_once(topic: str, message: str) -> None:
    """Warn the first time that something about a topic is said."""
    if topic not in _said:
        _said.add(topic)
        warnings.warn(message, stacklevel=3)
