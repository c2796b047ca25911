"""Processes that need not import the libraries first: they are forked from a server that has.

A new interpreter imports for four to eight seconds before it does what a test is about. These
processes are as separate: own memory, arguments, environment, folder, output and exit status.
"""

import faulthandler
import fcntl
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing as mp

from tests.conftest import ROOT

METHOD = "forkserver"  # tests/conftest.py says what the server imports
LIMIT = 900  # seconds until a process that hangs says where, and ends
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
_CONTEXT = multiprocessing.get_context(METHOD)
# The server sends each exit status once, and a start asks for those of all processes: of two
# threads that ask at once, one gets it and the other keeps 255.
_ASKING = threading.Lock()


@dataclass(frozen=True)
class Done:
    """What a process left behind, with the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def start_process(function: Any, *arguments: Any) -> BaseProcess:
    """Run function(*arguments) in a process, from any thread."""
    process = _CONTEXT.Process(target=function, args=arguments)
    with _ASKING:
        process.start()
    return process


def end_process(process: BaseProcess, limit: float | None = None) -> bool:
    """Wait for the end of a process, from any thread; kill it after some seconds.

    Returns whether it was in time.
    """
    in_time = bool(connection.wait([process.sentinel], limit))
    if not in_time:
        process.kill()
    connection.wait([process.sentinel])
    with _ASKING:
        process.join()
    return in_time


class Tool:
    """A running tool.

    Args:
        path: script, relative to tools/ if it is not absolute.
        arguments: of its command line.
        environment: variables beside those of this process.
        prepare: called in the process before the script; it is pickled.
    """

    def __init__(
        self,
        path: str | Path,
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        prepare: Any = None,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="tool_output_")
        argv = [str(ROOT / "tools" / path), *map(str, arguments)]
        variables = {**os.environ, **(environment or {})}
        self.process = start_process(_run, argv, variables, os.getcwd(), self.folder.name, prepare)

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return not connection.wait([self.process.sentinel], 0)

    def wait(self) -> Done:
        """Its output and exit status, which is minus the signal that ended it."""
        end_process(self.process)
        out, err = (
            (Path(self.folder.name) / name).read_text(errors="replace") for name in ("out", "err")
        )
        self.folder.cleanup()
        return Done(self.process.exitcode, out, err)


def _run(
    argv: list[str], variables: dict[str, str], folder: str, output: str, prepare: Any
) -> None:
    sys.stdout.flush()
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    torch.set_num_threads(1)  # small models gain nothing from more, and sums keep their order
    if prepare:
        prepare()
    runpy.run_path(argv[0], run_name="__main__")


def run_tool(path: str | Path, *arguments: Any, check: bool = True, **options: Any) -> Done:
    """Run a tool to its end; see `Tool`.

    Raises:
        AssertionError: if it fails, unless `check` is False.
    """
    done = Tool(path, *arguments, **options).wait()
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def spawn(function: Any, arguments: tuple[Any, ...], count: int) -> None:
    """Run function(rank, *arguments) in some processes, as `torch.multiprocessing.spawn` does."""
    mp.start_processes(function, arguments, nprocs=count, start_method=METHOD)


def run_in_two(path: str | Path, *arguments: Any) -> str:
    """Run a tool in two processes of one group, on the CPU: what the first one printed.

    One pair at a time: other pairs, those of parallel runs of pytest too, wait.
    """
    group = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", **ON_CPU)
    with (Path(tempfile.gettempdir()) / "mmonepeace_tests_in_two.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        group["MASTER_PORT"] = str(free_port())
        tools = [
            Tool(
                path, *arguments, "--launcher", "pytorch",
                environment=dict(group, RANK=str(rank), LOCAL_RANK=str(rank)),
            )
            for rank in range(2)
        ]  # fmt: skip
        ends = [tool.wait() for tool in tools]
    for done in ends:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return ends[0].stdout


def of_scripts(**variables: str) -> dict[str, str]:
    """The environment of a shell script that starts processes: this Python, a free port, no GPU."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **ON_CPU, "PATH": path, "PORT": str(free_port()), **variables}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
