"""Speed of the vision branch in two commits: what the existence of other modalities costs.

Run:  python benchmarks/vision_speed.py BEFORE AFTER [--arch tiny] [--size 256] [--batch 8]

BEFORE and AFTER are commits of this repository. One process for each runs in alternation, so that
both see the same machine; the table has medians and their ratio.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKER = """
import sys, time
import torch
from mmonepeace.models import OnePeace

arch, size, batch, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)
model = OnePeace(arch, img_size=256)
images = torch.randn(batch, 3, size, size)

def infer():
    with torch.inference_mode():
        model(images)

def train():
    model(images)[-1].square().mean().backward()

print(sum(p.numel() for p in model.parameters()), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    {"infer": infer, "train": train}[line.strip()]()
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for name, commit in zip(("before", "after"), args.commits, strict=True):
            tree = Path(folder) / name
            tree.mkdir()
            archive = subprocess.run(
                ["git", "archive", commit, "mmonepeace"], cwd=ROOT, check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)
            sizes = [args.size, args.batch, args.threads]
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, args.arch, *map(str, sizes)],
                    cwd=tree,
                    env={**os.environ, "PYTHONPATH": str(tree)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        parameters = [int(worker.stdout.readline()) for worker in workers]
        print(f"- Date: {date.today().isoformat()}")
        print(f"- Command: `python benchmarks/vision_speed.py {' '.join(sys.argv[1:])}`")
        print(f"- Hardware: {platform.machine()} CPU, {args.threads} threads")
        print(f"- Versions: Python {platform.python_version()}")
        print(f"- Parameters: {parameters[0]:,} before, {parameters[1]:,} after\n")
        print("| step | before, ms | after, ms | after / before |\n|---|---|---|---|")
        for step in ("infer", "train"):
            times: list[list[float]] = [[], []]
            for i in range(args.rounds + 3):
                order = (0, 1) if i % 2 else (1, 0)
                for which in order:
                    worker = workers[which]
                    worker.stdin.write(f"{step}\n")
                    worker.stdin.flush()
                    seconds = float(worker.stdout.readline())
                    if i >= 3:  # warm-up
                        times[which].append(seconds)
            before, after = (statistics.median(t) * 1e3 for t in times)
            print(f"| {step} | {before:.1f} | {after:.1f} | {after / before:.3f} |")
        for worker in workers:
            worker.stdin.close()
            worker.wait()


if __name__ == "__main__":
    main()
