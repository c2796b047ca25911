"""Tools and functions in processes of their own, with limits of time and memory."""

import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.faults.report import Result
from tests.processes import Done, Tool, end_process, start_process

WORKERS = 2
TOOL_SECONDS = 180  # until a tool counts as hanging; a busy machine is slow
CASE_SECONDS = 20  # the same for a case within a process
_BYTES = 6 << 30  # of address space beyond what a process has at its start

Case = TypeVar("Case")
Attempt = Callable[[Any], list[Result]]


def wait(tool: Tool, limit: float = TOOL_SECONDS) -> Done:
    """The end of a tool; one that hangs is killed and has the exit status 124."""
    in_time = end_process(tool.process, limit)
    done = tool.wait()
    return done if in_time else replace(done, returncode=124)


def run(path: str | Path, *arguments: Any, **options: Any) -> Done:
    """Run a tool to its end, see `wait`."""
    return wait(Tool(path, *arguments, **options))


def judge(done: Done, expected: Sequence[int] = (2,)) -> tuple[str, bool]:
    """(outcome, whether it held) of a tool that was given something broken."""
    if done.returncode == 124:
        return "hang", False
    if "Traceback (most recent call last)" in done.stderr + done.stdout:
        return "traceback", False
    if done.returncode < 0:
        return f"signal {-done.returncode}", False
    names = {0: "accepted", 2: "refused"}
    outcome = names.get(done.returncode, f"exit code {done.returncode}")
    return outcome, done.returncode in expected


def in_parallel(attempt: Callable[[Case], Result], cases: Iterable[Case]) -> Iterator[Result]:
    """Results of cases that run tools, some at a time, in the order of the cases."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(attempt, cases)


class _CaseHangs(BaseException):
    """Not an Exception, which the code under test may catch."""


def _serve(attempt: Attempt, cases: Sequence[Any], results: str) -> None:
    """Try cases one after the other, and write the results of each, a line per case."""

    def interrupt(*_: Any) -> None:
        raise _CaseHangs

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is logged for each of a thousand cases
    os.dup2(1, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES,) * 2)
    signal.signal(signal.SIGALRM, interrupt)
    with open(results, "a") as file:
        for case in cases:
            signal.alarm(CASE_SECONDS)
            try:
                done = attempt(case)
            except _CaseHangs:
                done = [Result(attempt.__name__, repr(case), "hang", False)]
            finally:
                signal.alarm(0)
            file.write(json.dumps([vars(result) for result in done]) + "\n")
            file.flush()


def in_batches(attempt: Attempt, cases: Sequence[Any], size: int = 50) -> Iterator[Result]:
    """Results of cases that are functions of this package, many in each process.

    A process that dies or does not return costs the case that it was at: the next one goes on.
    """

    def run_batch(batch: Sequence[Any]) -> list[Result]:
        results: list[Result] = []
        while batch:
            with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
                process = start_process(_serve, attempt, batch, file.name)
                end_process(process, CASE_SECONDS * 3 + len(batch) * 10)
                lines = file.read().splitlines()
            for line in lines:
                results += [Result(**values) for values in json.loads(line)]
            if len(lines) < len(batch):
                outcome = f"process ended with {process.exitcode}"
                results.append(Result(attempt.__name__, repr(batch[len(lines)]), outcome, False))
            batch = batch[len(lines) + 1 :]
        return results

    batches = [cases[i : i + size] for i in range(0, len(cases), size)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for results in pool.map(run_batch, batches):
            yield from results
