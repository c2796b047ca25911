"""What the user is told when a run cannot succeed."""

from mmengine.config import Config


class CheckError(Exception):
    """A run that cannot succeed. The message is for the user and names the fix."""


def is_detection(cfg: Config) -> bool:
    """Whether a recipe is one of mmdetection."""
    return cfg.get("default_scope") == "mmdet"


def try_now(cfg: Config) -> str:
    """The line that offers a run which needs nothing."""
    demo = "make det-demo" if is_detection(cfg) else "make demo"
    return f"To see a whole run now, on a CPU and without any download of yours: {demo}"


def data_help(cfg: Config) -> str:
    """The lines that say which data a recipe needs and how to name another place."""
    lines = ["Your own copy elsewhere: add --data-root DIR."]
    if cfg.get("needs_data"):
        lines.insert(0, f"This recipe needs {cfg.needs_data}.")
    return "\n".join(lines if "runner_type" in cfg else [*lines, try_now(cfg)])
