"""Exit statuses, and what is printed."""

import errno
import os
import signal
import sys

import pytest

from mmonepeace import exit_status as module
from mmonepeace.exit_status import (
    UserError,
    defer_signals,
    exit_status,
    process_of_run,
    received_signal,
)


def fail(error):
    raise error


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_a_tool_that_runs_to_its_end(returned, status):
    assert exit_status(lambda: returned) == status


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("b.pth is cut.\x1b[2J Fetch it again."), "b.pth is cut. [2J Fetch it again."),
        (ValueError("-1 is not a size"), "-1 is not a size"),
        (
            OSError(errno.ENOSPC, "No space left", "x/y.pth"),
            "the disk is full: x/y.pth (No space left). Make room; files that were complete have stayed.",
        ),
        (OSError(errno.EROFS, "Read-only"), "the file system is read-only (Read-only)."),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_status_2(error, line, capsys):
    assert exit_status(lambda: fail(error), ValueError) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_bug_is_not_hidden():
    for error in (ValueError("a bug"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(error)):
            exit_status(lambda error=error: fail(error))


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_what_all_processes_raise_is_printed_once(rank, lines, capsys, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    error = UserError("diverged")
    error.on_all_ranks = True
    assert exit_status(lambda: fail(error)) == 2
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize(
    ("variables", "process"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}, (0, 1, 0)),  # no srun
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"},
         (1, 2, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (0, 1, 0)),
        ({"RANK": "1"}, "RANK=1, WORLD_SIZE=: expected"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2, WORLD_SIZE=2: expected"),
        ({"SLURM_PROCID": "-1", "SLURM_NTASKS": "2"}, "SLURM_PROCID=-1, SLURM_NTASKS=2: expected"),
    ],
)  # fmt: skip
def test_launchers_say_which_process_this_is(variables, process, monkeypatch):
    for name in [*sum(module.LAUNCHERS, ()), "SLURM_JOB_ID", "SLURM_STEP_ID"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(process, tuple):
        assert process_of_run() == process
    else:
        with pytest.raises(UserError, match=process):
            process_of_run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_tool_with_128_and_its_number(number, capsys):
    before = signal.getsignal(number)
    status = exit_status(lambda: os.kill(os.getpid(), number), interrupted="go on with X.")
    assert status == 128 + number
    assert capsys.readouterr().err == f"\n{number.name}: go on with X.\n"
    assert signal.getsignal(number) == before


def test_a_deferred_signal_is_noted_and_a_second_one_ends_at_once(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr(module, "end_at_once", ended.append)
    clock = iter([10.0, 10.9, 11.1])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))

    def run():
        defer_signals(True)
        assert received_signal() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert received_signal() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # so soon: the same one, from the launcher
        assert not ended
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [130]

    assert exit_status(run) == 0
    assert capfd.readouterr().err.startswith("SIGTERM: stopping after this step with a checkpoint")
    assert received_signal() is None


def test_a_forked_process_leaves_signals_to_the_tool():
    def run():
        if not (child := os.fork()):
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert exit_status(run) == 7


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch):
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(sys.stdout, "flush", lambda: fail(BrokenPipeError()))
    assert exit_status(lambda: None) == 1
