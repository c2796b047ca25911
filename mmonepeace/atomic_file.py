"""The one way to write a file: it appears atomically, complete or not at all."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_file(path: str | Path, concurrent: bool = False, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path that is renamed to `path` when the block ends without an error.

    Args:
        path: file to write; an existing one stays until then. A device is written as it is.
        concurrent: other processes may write the same path at the same time; each has a temporary
            file of its own then. Otherwise the next run overwrites what a killed one left.
        durable: have it on the disk before it gets its name. Without, ten times as many files are
            written in a second; the caller flushes all of them at the end (`os.sync`).

    Raises:
        OSError: if the file cannot be written, as on a full disk.
    """
    path = Path(path)
    if path.is_absolute() and path.parts[1:2] == ("dev",):  # /dev/stdout
        yield path
        return
    with atomic_files([path], concurrent, durable) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(
    paths: Sequence[Path], concurrent: bool = False, durable: bool = True
) -> Iterator[list[Path]]:
    """`atomic_file` for files that belong together: all get their names, or none.

    The last one names the others, as an index does: it is renamed last, and an existing one is
    removed before the others are replaced.
    """
    suffix = f".{os.getpid()}.part" if concurrent else ".part"
    temporaries = [path.with_name(f".{path.name}{suffix}") for path in paths]
    renamed: list[Path] = []
    try:
        yield temporaries
        for temporary in temporaries if durable else ():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # a full disk or a power cut must not leave half a file
        if len(paths) > 1:
            paths[-1].unlink(missing_ok=True)
        for temporary, path in zip(temporaries, paths, strict=True):
            temporary.replace(path)
            renamed.append(path)
        for folder in {path.parent for path in paths} if durable else ():
            _flush_names(folder)
    except BaseException as error:
        for path in renamed:
            path.unlink()
        # torch.save hides a full disk or a signal behind the error of closing its archive.
        hidden = error.__context__ if isinstance(error, RuntimeError) else None
        cause = hidden or error
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename is None:
            cause.filename = str(paths[-1])
        if isinstance(hidden, OSError) or not isinstance(hidden, Exception | None):
            raise hidden from None
        raise
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """Have the names of a folder's files on the disk, where the file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
