import os

import pytest
import torch

from mmonepeace.engine import threads

LINES = "cpu  9 9 9 9 9 9 9 9 0 0\n{}intr 5 0 0\nctxt 7\n"


def stat(*cores):
    """What Linux would say of cores with (busy, idle) ticks, and perhaps those of niced jobs."""
    of_cores = (
        f"cpu{i} {busy} {sum(niced)} 0 {idle} 0 0 0 0 0 0\n"
        for i, (busy, idle, *niced) in enumerate(cores)
    )
    return LINES.format("".join(of_cores))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of four threads; call it with the state of its cores before and after."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(os, "getpriority", lambda which, who: 0)
    monkeypatch.setattr(threads, "_STAT", tmp_path / "stat")
    was_set = []
    monkeypatch.setattr(torch, "set_num_threads", was_set.append)

    def look(before, after, resumed=None):
        (tmp_path / "stat").write_text(stat(*before))
        written = stat(*after)
        monkeypatch.setattr(
            threads.time, "sleep", lambda seconds: (tmp_path / "stat").write_text(written)
        )
        return threads.choose_threads(resumed), was_set

    return look


IDLE = [(0, 100)] * 4


def test_threads_of_busy_cores_are_left_to_other_jobs(machine):
    said, was_set = machine(IDLE, [(30, 100), (0, 130), (28, 102), (0, 130)])
    assert was_set == [2]
    assert "leave 2.1 cores idle. Threads: 2 instead of 4" in said


def test_one_thread_stays_on_a_full_machine_and_all_on_an_idle_one(machine):
    assert machine(IDLE, [(30, 100)] * 4)[1] == [1]
    said, was_set = machine(IDLE, [(5, 125), (0, 130), (6, 124), (0, 100)])  # one has no ticks
    assert said is None
    assert was_set == [1]


def test_only_cores_that_this_process_may_use_count(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    assert machine(IDLE, [(0, 130), (30, 100), (0, 130), (30, 100)])[1] == [1]


def test_a_number_that_the_user_gave_stays(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert machine(IDLE, [(30, 100)] * 4) == (None, [])


def test_jobs_of_lower_priority_give_way(machine, monkeypatch):
    niced = [(0, 100, 30)] * 4
    assert machine(IDLE, niced) == (None, [])
    monkeypatch.setattr(os, "getpriority", lambda which, who: 10)
    assert machine(IDLE, niced)[1] == [1]


def test_threads_stay_where_cores_are_not_counted(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5})  # numbered anew in a container
    assert machine(IDLE, [(30, 100)] * 4) == (None, [])
    assert machine([], []) == (None, [])
    monkeypatch.setattr(threads, "_STAT", threads._STAT / "missing")
    assert threads.idle_cores() is None


def test_a_resumed_run_keeps_its_threads_or_says_what_changes(machine, monkeypatch):
    busy = [(30, 100)] * 4
    said, was_set = machine(IDLE, busy, resumed=3)
    assert was_set == [3]
    assert said.startswith(
        "Threads: 3 instead of 4, as before the run was stopped. OMP_NUM_THREADS"
    )
    assert machine(IDLE, busy, resumed=4) == (None, [3])
    assert "Threads: 4, before the run was stopped 8" in machine(IDLE, busy, resumed=8)[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "Threads: 4, before the run was stopped 3" in machine(IDLE, busy, resumed=3)[0]
    assert was_set == [3]


def test_bits_on_gpus_do_not_depend_on_threads(machine, monkeypatch):
    assert threads.threads_of_run() == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert threads.threads_of_run() is None
    assert machine(IDLE, [(30, 100)] * 4, resumed=3) == (None, [])


def test_this_machine_says_how_many_cores_are_idle():
    if (idle := threads.idle_cores()) is None:
        pytest.skip("nobody counts the ticks of all cores here")
    assert 0 <= idle <= len(os.sched_getaffinity(0))
