"""What reports of several seeds share: runs of tools, and means of what they gave."""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_tool(name: str, *arguments: object) -> None:
    """Run a tool of the clone."""
    command = [sys.executable, str(ROOT / f"tools/{name}.py"), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation of the seeds."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"
