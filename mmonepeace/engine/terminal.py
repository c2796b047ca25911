"""What a tool prints of a run: that which concerns it. The log file in the work directory has all.

Warnings of libraries are left out by their text, listed here with the reason; nothing else is.
"""

import builtins
import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine import hooks
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from yapf.yapflib import yapf_api

from mmonepeace.registry import HOOKS

# Beginning of a message, as a regular expression -> why it says nothing about the run.
FOREIGN = {
    r"Could not import OneDL": "data sets of a vendor, which no recipe uses",
    r"Failed to search registry with scope": "MMEngine looks in its own registry next",
    r"Distributed training is not used, all SyncBatchNorm": "a single process needs no other",
    r"Default ``avg_non_ignore`` is False": "the default of the official recipes",
    r"The prefix is not set in metric class": "metrics have different names here",
    r'"FileClient" will be deprecated': "MMEngine's own code calls it",
    r'"HardDiskBackend" is the alias': "MMEngine's own code calls it",
    r"Dataset \w+ has no metainfo": "pairs have no classes",
    r"__floordiv__ is deprecated": "code of libraries",
    r"torch\.meshgrid: in an upcoming release": "code of libraries",
    r"The torch\.cuda\.amp\.\w+ module is deprecated": "code of libraries",
    r"pkg_resources is deprecated": "code of libraries",
    r"`init_weights` of \w+ has been called more than once": "harmless: the last call counts",
    r"faster_coco_eval is not installed": "recipes use pycocotools",
    r"loading annotations|Loading and preparing|D(one|ONE) \(t=|creating index|index created!": (
        "steps of pycocotools"
    ),
    r"Running per image|Evaluate annotation type|Accumulating evaluation": "its steps, too",
    r"Multi-processing start method": "the recipes set it",
    r"`broadcast_buffers` is deprecated": "run_options.set_launcher sets it for MMEngine's wrapper",
    r"Setting (MKL|OMP)_NUM_THREADS": "the default of launchers",
    r"Exp name: ": "the name of the config, again every thousand steps",
}
# Long messages that the log file has; the config itself is in the work directory.
LONG = r"Config:\n|Hooks will be executed in the following order"
_NOISE = re.compile("|".join([*FOREIGN, LONG]))
_ENVIRONMENT = re.compile(r"\s*-+\s*System environment:")
_FACTS = re.compile(r"^ +(Python|PyTorch|MMEngine|GPU [\d,]+|seed): (.*)$", re.MULTILINE)
NO_TERMINAL = 60.0  # seconds between lines about progress where nobody watches


@HOOKS.register_module()
class LoggerHook(hooks.LoggerHook):
    """MMEngine's hook, by time: the first step, then a line every some seconds, and the last step.

    An evaluation that takes less has no lines about its batches. Where no terminal is, a tool prints
    a line a minute, see `quiet_terminal`; the log file and the curves have all.

    Args:
        seconds: time between lines.
        interval: steps between lines, in place of `seconds`.
        kwargs: of MMEngine's `LoggerHook`.

    Raises:
        ValueError: if either is not positive.
    """

    def __init__(self, seconds: float = 10.0, interval: int | None = None, **kwargs: Any) -> None:
        if not seconds > 0:
            raise ValueError(f"default_hooks.logger.seconds is {seconds}, expected more than 0.")
        super().__init__(interval=1 if interval is None else interval, **kwargs)
        self.seconds = seconds if interval is None else None
        self._last = 0.0  # time of the last line

    def _is_due(self, batch_idx: int) -> bool:
        if self.seconds is None:
            return self.every_n_inner_iters(batch_idx, self.interval)
        if time.monotonic() - self._last < self.seconds:
            return False
        self._last = time.monotonic()
        return True

    def _log(self, runner: Runner, batch_idx: int, mode: str) -> dict[str, Any]:
        values, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
        runner.logger.info(line, extra={} if self.seconds is None else {"progress": True})
        return values

    def before_train(self, runner: Runner) -> None:
        """Have the first step logged."""
        self._last = -math.inf

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to count seconds."""
        self._last = time.monotonic()

    before_test_epoch = before_val_epoch

    def after_train_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Log a step if it is time."""
        if self._is_due(batch_idx) or self.is_last_train_iter(runner):
            values = self._log(runner, batch_idx, "train")
            runner.visualizer.add_scalars(
                values, step=runner.iter + 1, file_path=self.json_log_path
            )

    def after_val_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Log a batch if it is time."""
        if self._is_due(batch_idx):
            self._log(runner, batch_idx, "val")

    def after_test_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        """Log a batch if it is time."""
        if self._is_due(batch_idx):
            self._log(runner, batch_idx, "test")


@contextmanager
def quiet_terminal() -> Iterator[None]:
    """Print only what concerns the run, also of what libraries log, print and warn of.

    The config, which MMEngine logs and stores in five places, stays as MMEngine indents it: yapf would take
    half a second to change little of that.
    """
    last = -NO_TERMINAL

    def is_due(record: logging.LogRecord) -> bool:
        nonlocal last
        if not hasattr(record, "progress") or sys.stdout.isatty():
            return True
        now = time.monotonic()
        if now - last < NO_TERMINAL:
            return False
        last = now
        return True

    def call_handlers(self: MMLogger, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for handler in self.handlers:
            if record.levelno < handler.level:
                continue
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)
            elif _ENVIRONMENT.match(text):
                handler.handle(logging.makeLogRecord({**vars(record), "msg": _shorten(text)}))
            elif not _NOISE.match(text) and is_due(record):
                handler.handle(record)

    def print_some(text: Any = "", *args: Any, **kwargs: Any) -> None:
        if not _NOISE.match(str(text)):
            print_all(text, *args, **kwargs)

    before, print_all, format_code = MMLogger.callHandlers, builtins.print, yapf_api.FormatCode
    MMLogger.callHandlers = call_handlers
    builtins.print = print_some  # which MMEngine and pycocotools use
    yapf_api.FormatCode = _check_alone
    try:
        with warnings.catch_warnings():
            for text in FOREIGN:
                warnings.filterwarnings("ignore", text)
            yield
    finally:
        MMLogger.callHandlers = before
        builtins.print = print_all
        yapf_api.FormatCode = format_code


def _check_alone(text: str, **_: Any) -> tuple[str, bool]:
    compile(text, "config", "exec")
    return text, False


def _shorten(environment: str) -> str:
    facts = dict(_FACTS.findall(environment))
    facts["Python"] = facts.get("Python", "").split()[0]
    return ", ".join(f"{name} {value}" for name, value in facts.items())
