"""A campaign of faults: kills, damaged and hostile files, wrong configs, NaN, a full disk.

Run:  make faults
      python -m benchmarks.faults [--only kills damages ...] [--seed 0] [--scale 1.0] [--out RESULT.md]

Everything is made from the seed, in a temporary folder, on the CPU; another seed makes other faults.
Prints what did not hold as it happens, and a table at the end. Exit code 1 if anything did not hold.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.faults import configs, damages, disk, diverging, hostile, inputs, kills
from benchmarks.faults.material import make_journeys
from benchmarks.faults.report import Report, Result

Attempts = Callable[[], Iterator[Result]]


def attempts(root: Path, seed: int, scale: float) -> dict[str, list[Attempts]]:
    """Name -> what tries its faults."""
    journeys = make_journeys(root / "journeys")

    def number(count: int) -> int:
        return max(1, round(count * scale))

    every = journeys.values()
    return {
        "kills": [partial(kills.try_kills, j, root / "kills", seed, number(14)) for j in every],
        "signals": [partial(kills.try_signals, j, root / "kills", seed, number(2)) for j in every],
        "damages": [partial(damages.try_damages, journeys, root, seed, number(1000))],
        "hostile": [partial(hostile.try_hostile, journeys, root / "hostile", seed, scale)],
        "inputs": [partial(inputs.try_inputs, root / "inputs", seed, number(100))],
        "configs": [partial(configs.try_configs, journeys, root / "configs", seed, scale)],
        "diverging": [partial(diverging.try_diverging, journeys, root / "diverging", seed, scale)],
        "disk": [partial(disk.try_full_disk, journeys, root / "disk", seed, scale)],
    }


def main() -> int:
    """Try all faults and print what held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="KIND", help="these kinds of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of faults")
    parser.add_argument("--out", type=Path, help="write the table to this .md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.preload"])
    report = Report()
    with tempfile.TemporaryDirectory(prefix="mmonepeace_faults_") as folder:
        tries = attempts(Path(folder), args.seed, args.scale)
        unknown = set(args.only or ()) - set(tries)
        if unknown:
            parser.error(f"--only {' '.join(sorted(unknown))}: choose from {', '.join(tries)}")
        for kind, some in tries.items():
            if args.only is None or kind in args.only:
                print(f"{kind} ...", flush=True)
                for attempt in some:
                    report.add(attempt())
    print(f"\n{report}")
    if args.out:
        args.out.write_text(_page(report, args))
    return 1 if report.failed else 0


def _page(report: Report, args: argparse.Namespace) -> str:
    command = f"python -m benchmarks.faults --seed {args.seed} --scale {args.scale}"
    if args.only:
        command += f" --only {' '.join(args.only)}"
    return (
        f"# Campaign of faults, {date.today()}\n\n`{command}`\n\n{os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}\n\n"
        f"```\n{report}\n```\n"
    )


if __name__ == "__main__":
    sys.exit(main())
