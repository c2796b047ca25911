"""How a tool ends: 0; 2 after a line about what the user can fix; 128 + the signal that stopped it.

The first signal raises `Interrupted` wherever the tool is, or is only noted while `deferred`: training
then ends with a checkpoint after its step. A second one ends the process at once.
"""

import errno
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mmonepeace.console import printable
from mmonepeace.missing_packages import explain_missing_packages

# Ctrl-C; preemption by Slurm and others, and what it can send some minutes before.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# A launcher passes on a signal that the processes have received already: not a second one.
SAME_SIGNAL = 1.0  # seconds
# Variables with the number of a process, how many there are, and its number on its machine.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "the disk fails to read or write",
}


class UserError(Exception):
    """An error that the user can fix: the message names what is wrong and how.

    `on_all_ranks` says that all processes of a run raise it together: the first one prints it.
    """

    on_all_ranks = False


class Interrupted(BaseException):
    """A signal has stopped the tool. The message says where, and how to go on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.status = 128 + number


@dataclass
class _Watch:
    """The signals of a tool; `number` is the one that was received, if any."""

    message: str
    number: int | None = None
    received_at: float = 0.0
    deferred: bool = False
    process: int = field(default_factory=os.getpid)

    def receive(self, number: int, *_: Any) -> None:
        if os.getpid() != self.process:  # a forked worker: this process stops it when it is time
            return
        now = time.monotonic()
        if self.number is not None:
            if now - self.received_at > SAME_SIGNAL:
                end_at_once(128 + number)
            return
        self.number, self.received_at = number, now
        name = signal.Signals(number).name
        if not self.deferred:
            raise Interrupted(number, self.message)
        if is_first_rank():
            text = f"{name}: stopping after this step with a checkpoint. Again to end at once.\n"
            os.write(2, text.encode())  # print cannot be re-entered


_watch: _Watch | None = None


@contextmanager
def watch_signals(message: str) -> Iterator[None]:
    """Turn signals into `Interrupted` with this message, in the main thread."""
    global _watch
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = _Watch(message)
    before = {number: signal.signal(number, _watch.receive) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _watch = None
        end_workers()


def defer_signals(deferred: bool) -> None:
    """Only note a signal from now on, or raise again; without effect outside `watch_signals`."""
    if _watch is not None:
        _watch.deferred = deferred


def received_signal() -> int | None:
    """The signal that was noted."""
    return None if _watch is None else _watch.number


def end_at_once(status: int) -> None:
    """End this process and its workers, without any clean-up."""
    end_workers()
    os._exit(status)


def end_workers() -> None:
    """End the workers of data loaders.

    Those that ignore signals would keep the interpreter from ending: it asks with SIGTERM and waits.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would call it a failure
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        signal.signal(signal.SIGCHLD, before)


def is_first_rank() -> bool:
    """Whether this is the first process of its run; the environment of launchers tells."""
    return next((os.environ[name] for name, *_ in LAUNCHERS if name in os.environ), "0") == "0"


class Process(NamedTuple):
    """One process of a run."""

    rank: int = 0
    size: int = 1  # of the run, in processes
    local_rank: int = 0  # on its machine


def process_of_run() -> Process:
    """Which process of its run this is, by the environment of launchers; alone without one.

    Raises a UserError if that makes no sense.
    """
    rank, count, local = next((x for x in LAUNCHERS if x[0] in os.environ), LAUNCHERS[0])
    # Slurm tells a batch script the number of tasks, but only srun starts them.
    script = rank == "SLURM_PROCID" and "SLURM_JOB_ID" in os.environ
    if rank not in os.environ or (script and "SLURM_STEP_ID" not in os.environ):
        return Process()
    values = [
        os.environ.get(name, default) for name, default in ((rank, ""), (count, ""), (local, "0"))
    ]
    given = f"{rank}={values[0]}, {count}={values[1]}"
    if not all(x.isdecimal() for x in values) or int(values[0]) >= int(values[1]):
        raise UserError(
            f"{given}: expected a number from 0 on, and how many processes there are. Set both, as "
            "torchrun and srun do, or neither."
        )
    return Process(*map(int, values))


def exit_status(
    run: Callable[[], int | None],
    *errors: type[Exception],
    interrupted: str = "stopped. Files that were complete have stayed.",
) -> int:
    """Run a tool to its exit status, and print what stopped it.

    Args:
        run: the tool; returns its status, None for 0.
        errors: what, beside `UserError`, is an error that the user can fix.
        interrupted: what to say when a signal stops the tool.
    """
    try:
        with (
            watch_signals(interrupted),
            _one_line_for_disk_errors(),
            explain_missing_packages(),
        ):
            status = run() or 0
            sys.stdout.flush()
    except Interrupted as stop:
        if is_first_rank():
            print(f"\n{stop}", file=sys.stderr)
        return stop.status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not is_users(error) and not isinstance(error, errors):
            raise
        if is_first_rank() or not getattr(error, "on_all_ranks", False):
            print(f"error: {printable(describe(error))}", file=sys.stderr)
        return 2
    return status


@contextmanager
def _one_line_for_disk_errors() -> Iterator[None]:
    """Say once that logs or curves cannot be written, in place of a traceback for every line."""
    said = set[str]()

    def say(error: BaseException | None) -> bool:
        if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
            return False
        line = f"warning: logs are incomplete from here on: {describe(error)}"
        if line not in said:
            said.add(line)
            print(line, file=sys.stderr)
        return True

    before, handle = threading.excepthook, logging.Handler.handleError

    def in_thread(arguments: threading.ExceptHookArgs) -> None:
        if not say(arguments.exc_value):
            before(arguments)

    def in_handler(self: logging.Handler, record: logging.LogRecord) -> None:
        if not say(sys.exc_info()[1]):
            handle(self, record)

    threading.excepthook = in_thread
    logging.Handler.handleError = in_handler  # type: ignore[method-assign]
    try:
        yield
    finally:
        threading.excepthook = before
        logging.Handler.handleError = handle  # type: ignore[method-assign]


def is_users(error: Exception) -> bool:
    """Whether an error is in plain words, or one of the disk: the user can fix it."""
    return isinstance(error, UserError) or (
        isinstance(error, OSError) and error.errno in DISK_ERRORS
    )


def describe(error: Exception) -> str:
    """The text of an error, in plain words for one of the disk."""
    if isinstance(error, OSError) and (reason := DISK_ERRORS.get(error.errno or 0)):
        where = f": {error.filename}" if error.filename else ""
        stayed = " Make room; files that were complete have stayed." if "full" in reason else ""
        return f"{reason}{where} ({error.strerror}).{stayed}"
    return str(error)
