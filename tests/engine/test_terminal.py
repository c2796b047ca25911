import logging
import sys
import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from yapf.yapflib import yapf_api

from mmonepeace.engine import LoggerHook, terminal
from mmonepeace.engine.terminal import quiet_terminal

ENVIRONMENT = """
------------------------------------------------------------
System environment:
    sys.platform: linux
    Python: 3.11.7 (main, May  9 2026) [GCC 12.2.0]
    GPU 0,1: NVIDIA H200
    PyTorch: 2.13.0
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3

Runtime environment:
    seed: 7
"""


@pytest.fixture
def logger(tmp_path, request):
    return MMLogger(request.node.name, log_file=str(tmp_path / "run.log"))


def test_the_terminal_has_what_concerns_the_run_and_the_log_file_all(logger, tmp_path, capsys):
    logger.handlers[0].stream = sys.stdout
    logged = [ENVIRONMENT, "Config:\na = 1", "Hooks will be executed in the following order:\nx"]
    logged += ["The prefix is not set in metric class IoUMetric.", "Saving checkpoint at 5"]
    with quiet_terminal():
        for text in logged:
            logger.info(text)
        print_log("Could not import OneDL", level=logging.DEBUG)
        print_log("every weight was loaded")
        with warnings.catch_warnings(record=True) as warned:
            warnings.filterwarnings("always", "something")
            warnings.warn("Default ``avg_non_ignore`` is False, if you", UserWarning, stacklevel=1)
            warnings.warn("something is wrong", UserWarning, stacklevel=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("INFO")[2].rpartition(" - ")[2] for line in lines[:2]] == [
        "Python 3.11.7, GPU 0,1 NVIDIA H200, PyTorch 2.13.0, seed 7",
        "Saving checkpoint at 5",
    ]
    assert lines[2:] == ["every weight was loaded"]
    assert [str(warning.message) for warning in warned] == ["something is wrong"]
    log = (tmp_path / "run.log").read_text()
    assert all(text in log for text in logged)
    print_log("Could not import OneDL")
    assert capsys.readouterr().out == "Could not import OneDL\n"  # outside of tools


def test_a_config_is_written_as_python_without_yapf(tmp_path, monkeypatch):
    monkeypatch.setattr(yapf_api, "FormatCode", mock.Mock(side_effect=AssertionError))
    parts = dict(a=dict(b=(1, 2), c=[dict(type="x")]), d="it's", e={"0": None})
    with quiet_terminal():
        Config(parts).dump(tmp_path / "config.py")
        with pytest.raises(SyntaxError, match="config"):
            Config(dict(a=object())).dump(tmp_path / "no_config.py")
    assert Config.fromfile(tmp_path / "config.py").to_dict() == parts


@pytest.mark.parametrize(("watched", "printed"), [(True, [0, 10, 60, 70]), (False, [0, 60])])
def test_without_a_terminal_progress_is_a_line_a_minute(
    watched, printed, logger, tmp_path, monkeypatch
):
    stream = mock.Mock(isatty=lambda: watched)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    logger.handlers[0].stream = stream
    with quiet_terminal():
        for now in (0, 10, 60, 70):
            logger.info("at %d", now, extra={"progress": True})
    lines = [call.args[0].rstrip() for call in stream.write.call_args_list]
    assert [int(line.rpartition(" ")[2]) for line in lines] == printed
    assert len((tmp_path / "run.log").read_text().splitlines()) == 4


@pytest.fixture
def steps(monkeypatch):
    """Steps of a second each: (hook, number of steps) -> those that are logged."""

    def run(hook, number):
        logged = []
        runner = SimpleNamespace(
            iter=0,
            max_iters=number,
            log_processor=SimpleNamespace(get_log_after_iter=lambda *_: ({}, "")),
            logger=mock.Mock(),
            visualizer=SimpleNamespace(add_scalars=lambda _, step, **__: logged.append(step)),
        )
        hook.json_log_path = None
        hook.before_train(runner)
        for step in range(number):
            monkeypatch.setattr(terminal.time, "monotonic", lambda step=step: 100.0 + step)
            runner.iter = step
            hook.after_train_iter(runner, step)
        return logged

    return run


def test_steps_are_logged_by_time(steps):
    assert steps(LoggerHook(), 25) == [1, 11, 21, 25]
    assert steps(LoggerHook(seconds=4), 10) == [1, 5, 9, 10]


def test_or_by_their_number(steps):
    assert steps(LoggerHook(interval=10), 25) == [10, 20, 25]


@pytest.mark.parametrize("options", [dict(seconds=0), dict(interval=0)])
def test_an_interval_is_positive(options):
    with pytest.raises(ValueError, match="0"):
        LoggerHook(**options)


def test_an_evaluation_is_logged_when_it_takes_long(monkeypatch):
    hook, runner = LoggerHook(), mock.Mock()
    runner.log_processor.get_log_after_iter.return_value = ({}, "line")
    clock = iter(range(0, 60, 4))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    hook.before_val_epoch(runner)
    for batch in range(3):
        hook.after_val_iter(runner, batch)
    assert runner.logger.info.call_count == 1
