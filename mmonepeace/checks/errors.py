"""What the user is told when a run cannot succeed."""

from mmengine.config import Config

from mmonepeace.checks.config import is_detection


class CheckError(Exception):
    """A run that cannot succeed. The message is for the user and names the fix."""


def data_advice(cfg: Config) -> str:
    """Lines that say what a recipe needs, and how to see a run without it."""
    lines = [f"This recipe needs {cfg.needs_data}."] if cfg.get("needs_data") else []
    if "runner_type" not in cfg:
        demo = "make det-demo" if is_detection(cfg) else "make demo"
        lines.append(f"To see a complete run now, on a CPU and without your own data: {demo}")
    return "\n".join(lines)
