"""The weights that a run starts from."""

from pathlib import Path

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmonepeace.checks.errors import CheckError
from mmonepeace.checks.report import Report


def check_weights(cfg: Config, report: Report) -> None:
    """Check that the weights which a run starts from exist."""

    def is_missing(path: str | None) -> bool:
        return bool(path) and not cfg.get("resume") and not Path(path).exists()

    first, start = cfg.get("stage_one"), cfg.get("load_from")
    if first and cfg.model.get("stage") != "al":
        report.add("stage-one-unused", "config", path=first)
    elif is_missing(first):
        report.add("stage-one-missing", "config", path=first)
    if is_missing(start):
        need = cfg.get("needs_weights", "the model that load_from names")
        report.add("load-from-missing", "config", path=start, need=need)
    init_cfg = (cfg.model.get("backbone") or {}).get("init_cfg")
    path = init_cfg.get("checkpoint") if isinstance(init_cfg, dict) else None
    if path and "://" not in path and not Path(path).is_file():
        need = cfg.get("needs_weights", "the pretrained weights of the backbone")
        report.add("weights-missing", "config", path=path, need=need)


def find_checkpoint(path: str) -> str:
    """A checkpoint file: the path itself, or the newest one of a work directory.

    Raises:
        CheckError: if there is none.
    """
    checkpoint = find_latest_checkpoint(path) if Path(path).is_dir() else path
    if not checkpoint or not Path(checkpoint).is_file():
        raise CheckError(f"checkpoint {path} does not exist. Train one: tools/train.py CONFIG")
    return checkpoint
