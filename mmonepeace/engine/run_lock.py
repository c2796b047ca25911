"""One run at a time in a work directory."""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mmonepeace.checks import CheckError
from mmonepeace.exit_status import is_first_rank

LOCK = ".run_lock"  # it stays, empty, when the run ends: removing it could admit two
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def hold_work_dir(folder: str | Path) -> Iterator[None]:
    """Keep other runs out of a work directory; the first process of a run does it for all.

    The kernel releases the lock when the process ends, however it does, so a run that was killed
    never keeps the next one out. Forked workers do not hold it.

    Raises:
        CheckError: if another run is there.
        OSError: if the folder cannot be written.
    """
    if not is_first_rank():
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with Path(folder, LOCK).open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            other = _read(file)
            # A file system without locks, such as some network ones: processes of this host only.
            if error.errno in _TAKEN or _is_running(other):
                raise CheckError(_refusal(folder, other)) from None
        file.truncate(0)
        json.dump(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "since": datetime.now().isoformat(" ", "seconds"),
                "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}",
            },
            file,
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _read(file: Any) -> dict[str, Any]:
    file.seek(0)
    try:
        content = json.load(file)
    except ValueError:  # the other one is about to write it
        return {}
    return content if isinstance(content, dict) else {}


def _is_running(other: dict[str, Any]) -> bool:
    process = other.get("process")
    if other.get("host") != socket.gethostname() or not isinstance(process, int) or process < 1:
        return False
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # it is somebody else's
    return process != os.getpid()


def _refusal(folder: str | Path, other: dict[str, Any]) -> str:
    who = "another run"
    if other:
        host, process = other.get("host"), other.get("process")
        who = f"process {process} on {host}, since {other.get('since')} ({other.get('command')})"
    return (
        f"the work directory {folder} is in use by {who}. Two runs would overwrite each other's "
        "checkpoints: wait for it or end it, or choose another --work-dir."
    )
