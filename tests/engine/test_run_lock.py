import errno
import json
import os
import signal
import socket

import pytest

from mmonepeace.checks import CheckError
from mmonepeace.engine import run_lock
from mmonepeace.engine.run_lock import LOCK, hold_work_dir


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder until it is killed; it has a worker, which lives on."""
    ready, tell = os.pipe()
    if not (process := os.fork()):
        with hold_work_dir(tmp_path):
            if worker := os.fork():
                os.write(tell, worker.to_bytes(8))
            signal.pause()
    worker = int.from_bytes(os.read(ready, 8))
    yield process
    os.kill(worker, signal.SIGKILL)
    for end in (ready, tell):
        os.close(end)


def kill(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_second_run_is_refused_and_told_of_the_first(other, tmp_path):
    try:
        with pytest.raises(CheckError) as error, hold_work_dir(tmp_path):
            raise AssertionError
    finally:
        kill(other)
    assert f"in use by process {other} on {socket.gethostname()}, since 2" in str(error.value)
    assert "another --work-dir" in str(error.value)


def test_a_run_that_was_killed_keeps_nobody_out(other, tmp_path):
    kill(other)
    assert json.loads((tmp_path / LOCK).read_text())["process"] == other
    with hold_work_dir(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert (tmp_path / LOCK).read_text() == ""


def test_garbage_in_the_file_keeps_nobody_out(tmp_path):
    for content in (b"\xff\x00{", b"[1]", b'{"process": "x"}'):
        (tmp_path / LOCK).write_bytes(content)
        with hold_work_dir(tmp_path):
            pass


def test_other_ranks_do_not_ask(other, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    try:
        with hold_work_dir(tmp_path):
            pass
    finally:
        kill(other)


@pytest.mark.parametrize(
    ("host", "process", "is_refused"),
    [("here", os.getppid(), True), ("here", 2**22 + 1, False), ("elsewhere", 1, False)],
)
def test_without_locks_processes_of_this_host_are_found(
    host, process, is_refused, tmp_path, monkeypatch
):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "lockf", lockf)
    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    (tmp_path / LOCK).write_text(json.dumps({"host": host, "process": process}))
    if is_refused:
        with pytest.raises(CheckError, match=f"process {process} on here"), hold_work_dir(tmp_path):
            raise AssertionError
    else:
        with hold_work_dir(tmp_path):
            pass
