"""Speed, fraction of the machine's peak and memory of the main workloads, next to peers.

Run:  python benchmarks/bench.py [--suite quick|full] [--only NAME ...] [--device cpu|cuda]
      [--against timm,mmseg,transformers] [--arch base] [--batch 4] [--sizes PX ...] [--rounds 7]
      [--json OUT] [--plot OUT]

All implementations of a workload alternate in one process with a matrix product of the same dtypes,
whose speed is the peak. Memory is the most that a process of its own holds above its weights (and
gradients). Operations are those of linear layers, convolutions and attention in the forward pass, and
twice that for the backward pass; recomputation and padding are not counted. For pretraining steps and
sliding windows the operations of ours are counted. Prints a table, with --json all values, with --plot
a figure of the curves. Peers that are not installed are left out; install timm and transformers in an
environment of their own, since mmpretrain (and so mmdet) cannot be imported beside transformers 5.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from runs import Run, seconds
from workloads import Workload, workloads

_SIDE, _TIMES = 2048, 16  # of the matrices whose products are the peak
PEAK_OPERATIONS = _TIMES * 2 * _SIDE**3
PEERS = ("timm", "mmseg", "transformers")


def matrix_product(dtype: torch.dtype, device: str, side: int = _SIDE) -> Run:
    """The run that the peak is measured with: long, since other processes may use the machine."""
    a = torch.randn(side, side, device=device).to(dtype)
    return lambda: [a @ a for _ in range(_TIMES)]


def measure(workload: Workload, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time all implementations in alternation, a row for each; then free the models."""
    built = {
        name: found
        for name, way in workload.ways.items()
        if wanted(name, args) and (found := way(args))
    }
    dtypes = {found.dtype for found in built.values()}
    runs: dict[Any, Run] = {name: found.run for name, found in built.items()}
    runs |= {dtype: matrix_product(dtype, args.device, args.peak_side) for dtype in dtypes}
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for turn in range(args.rounds + 1):
        for key, run in runs.items():
            taken = seconds(run, args.device)
            if turn:  # warm-up
                times[key].append(taken)
    rows = []
    for name, found in built.items():
        middle = statistics.median(times[name])
        peak = _TIMES * 2 * args.peak_side**3 / statistics.median(times[found.dtype])
        low, _, high = statistics.quantiles(times[name], n=4)
        operations = found.operations() if callable(found.operations) else found.operations
        speed = operations and operations / middle
        rows.append(
            {
                "workload": workload.title,
                "way": name,
                "curve": workload.curve,
                "seconds": middle,
                "quartiles": [low, high],
                "gflops": speed and speed / 1e9,
                "peak_gflops": peak / 1e9,
                "share": speed and speed / peak,
                "dtype": str(found.dtype).removeprefix("torch."),
            }
        )
    return rows


def wanted(way: str, args: argparse.Namespace) -> bool:
    """Whether a way is ours, or a peer that was requested."""
    peer = way.split()[0]
    return peer not in PEERS or peer in args.against


def memory_of(name: str, way: str, args: argparse.Namespace) -> float | None:
    """GB above the weights that one run in a process of its own holds at most; Linux."""
    command = [sys.executable, __file__, "--memory-of", name, way, "--device", args.device]
    command += ["--arch", args.arch, "--batch", str(args.batch), "--sizes", *map(str, args.sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.splitlines() or ["no message"])[-1]
        print(f"no memory of {way}: status {done.returncode}, {last}", file=sys.stderr)
        return None
    return float(done.stdout.split()[-1]) if done.stdout else None


def print_memory(name: str, way: str, args: argparse.Namespace) -> None:
    """What `memory_of` reads."""
    found = workloads(args)[name].ways[way](args)
    if found is None:
        return
    run = found.run
    if args.device == "cuda":
        run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        print((torch.cuda.max_memory_allocated() - before) / 1e9)
        return
    print_peak(run)


def print_peak(run: Run) -> None:
    """GB that a run holds at most, above what is there before it; Linux."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmHWM")
    run()
    print((resident("VmHWM") - before) / 1e9)


def resident(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with the time of each implementation relative to ours."""
    lines = [
        "| workload | way | s | quartiles | GFLOP/s | of peak | time / ours | GB above weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: dict[str, float] = {}
    for row in rows:
        base = first.setdefault(row["workload"], row["seconds"])
        memory = "" if row.get("memory") is None else f"{row['memory']:.2f}"
        low, high = row["quartiles"]
        speed = f"{row['gflops']:.0f} | {row['share']:.0%}" if row["gflops"] else "|"
        lines.append(
            f"| {row['workload']} | {row['way']} | {row['seconds']:.3f} | {low:.3f} to {high:.3f} | "
            f"{speed} | {row['seconds'] / base:.2f} | {memory} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the fraction of the peak and the memory along each curve, a line per implementation."""
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(row["curve"][0] for row in rows))
    figure = Figure(figsize=(9, 3.5 * len(axes_names)), layout="constrained")
    grid = figure.subplots(len(axes_names), 2, squeeze=False)
    for along, pair in zip(axes_names, grid, strict=True):
        for axis, (key, title) in zip(
            pair,
            (("share", "fraction of the peak"), ("memory", "GB above the weights")),
            strict=True,
        ):
            for way in dict.fromkeys(row["way"] for row in rows):
                points = [
                    (row["curve"][1], row[key])
                    for row in rows
                    if row["way"] == way and row["curve"][0] == along and row[key] is not None
                ]
                axis.plot(*zip(*points, strict=True), marker="o", label=way)
            axis.set(xlabel=along, ylabel=title, xscale="log", ylim=(0, None))
            ticks = sorted({row["curve"][1] for row in rows if row["curve"][0] == along})
            axis.set_xticks(ticks, ticks, minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
    grid[0][0].legend()
    figure.savefig(path, dpi=120)


def header(args: argparse.Namespace) -> str:
    """Date, hardware and versions."""
    versions = []
    for package in ("torch", "timm", "transformers", "onedl-mmsegmentation"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    where = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine() + " CPU"
    return "\n".join(
        [
            f"# Speed and memory, {args.arch}",
            "",
            f"- Date: {date.today().isoformat()}",
            f"- Command: `python benchmarks/bench.py {' '.join(sys.argv[1:])}`",
            f"- Hardware: {where}, {torch.get_num_threads()} threads",
            f"- Versions: Python {platform.python_version()}, {', '.join(versions)}",
            "",
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=("quick", "full"), default="quick")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--against", default=PEERS, type=lambda text: text.split(","), metavar=",".join(PEERS)
    )
    parser.add_argument("--arch", default="base")
    parser.add_argument("--batch", type=int, default=4, help="of image encode at 256 px")
    parser.add_argument(
        "--sizes",
        nargs="*",
        type=int,
        default=[],
        metavar="PX",
        help="of more images: encode-PX and step-PX",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="draw the curves")
    parser.add_argument("--peak-side", type=int, default=_SIDE, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.memory_of:
        print_memory(*args.memory_of, args)
        return
    known = workloads(args)
    unknown = sorted(set(args.only or ()) - set(known))
    if unknown:
        parser.error(f"--only {', '.join(unknown)}: choose from {', '.join(known)}")
    names = args.only or [n for n, load in known.items() if load.quick or args.suite == "full"]
    curves = [name for name, load in known.items() if load.curve]
    if args.plot and not set(names) & set(curves):
        parser.error(f"--plot draws curves; add some of {', '.join(curves)} to --only.")
    rows = []
    for name in names:
        measured = measure(known[name], args)
        gc.collect()  # reference cycles
        for row in measured:
            row["memory"] = memory_of(name, row["way"], args)
            rows.append(row)
            share = f", {row['share']:.0%} of the peak" if row["share"] else ""
            took = f"{row['way']} {row['seconds']:.3f} s{share}"
            print(f"{row['workload']}: {took}", file=sys.stderr, flush=True)
    print(header(args) + "\n" + table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.plot:
        draw([row for row in rows if row["curve"]], args.plot)


if __name__ == "__main__":
    main()
