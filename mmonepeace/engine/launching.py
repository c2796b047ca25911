"""A run from its config to its end: checks, then training or a dry run."""

from collections.abc import Callable

from mmengine.config import Config

from mmonepeace import checks
from mmonepeace.engine import run_options
from mmonepeace.engine.interruption import explain_disk_errors
from mmonepeace.engine.run_lock import hold_work_dir
from mmonepeace.engine.runner import FinetuneRunner, PretrainRunner
from mmonepeace.engine.terminal import quiet_terminal
from mmonepeace.exit_status import is_first_rank
from mmonepeace.garbage import no_garbage, only_new_garbage


def launch(
    load_config: Callable[[], Config],
    runner_class: type[FinetuneRunner | PretrainRunner],
    dry_run: bool,
) -> None:
    """Train by a config, or check all of it, try some steps and keep nothing.

    Args:
        load_config: gives the config with the options of the command line.
        runner_class: that trains.
        dry_run: print what a dry run finds.

    Raises:
        mmonepeace.checks.CheckError: if no run can use the config or its data.
    """
    with quiet_terminal():
        with no_garbage():  # imports the library of the recipe
            cfg = load_config()
            checks.check_run(cfg)
        with only_new_garbage():
            _run(cfg, runner_class, dry_run)


def _run(cfg: Config, runner_class: type[FinetuneRunner | PretrainRunner], dry_run: bool) -> None:
    if dry_run:
        run_options.keep_start(cfg)
        report = checks.dry_run(cfg, runner_class.from_cfg)
        if is_first_rank():
            print(report)
        return
    with hold_work_dir(cfg.work_dir), explain_disk_errors(cfg.work_dir), checks.explain(cfg):
        run_options.keep_tokenizer(cfg)
        runner_class.from_cfg(cfg).train()
