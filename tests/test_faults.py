"""A sample of each kind of fault that `make faults` tries."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.faults import mutations
from benchmarks.faults.__main__ import attempts
from benchmarks.faults.report import Report, Result
from tests.processes import end_process, start_process

# How many of all faults, and of which journeys: pretraining, segmentation, detection.
SAMPLES = {
    "kills": (0.1, slice(1, 2)), "signals": (0.5, slice(0, 1)), "damages": (0.05, slice(None)),
    "hostile": (0.05, slice(None)), "inputs": (0.1, slice(None)), "configs": (0.05, slice(None)),
    "diverging": (0.1, slice(None)), "disk": (0.3, slice(None)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_of_the_campaign_holds(kind, tmp_path):
    report = Report()
    scale, journeys = SAMPLES[kind]
    for attempt in attempts(tmp_path, seed=1, scale=scale)[kind][journeys]:
        report.add(attempt())
    assert report.results or kind == "disk"  # which needs root
    assert not report.failed, str(report)


def test_threads_get_the_exit_status_of_their_own_processes():
    def status(number: int) -> int:
        process = start_process(os._exit, number)
        end_process(process)
        return process.exitcode

    with ThreadPoolExecutor(4) as pool:  # by plain start and join, one in five is 255
        assert list(pool.map(status, [2] * 100)) == [2] * 100


def test_damage_changes_a_file_and_repeats():
    data = bytes(range(256)) * 8
    damaged = [mutations.mutate((0, i), data) for i in range(60)]
    assert damaged == [mutations.mutate((0, i), data) for i in range(60)]
    assert {name for name, _ in damaged} == {m.__name__ for m in mutations.MUTATIONS}
    assert all(content != data for _, content in damaged)


def test_the_table_counts_outcomes_and_names_failures():
    report = Report()
    report.add([Result("a", "1", "refused", True), Result("a", "2", "hang", False)])
    assert "1 refused, 1 hang" in str(report)
    assert "FAILED a 2: hang" in str(report)
    assert "1 of 2 held" in str(report)
