"""The memory that `mmonepeace estimate` tells, next to that of real steps on this CPU; Linux.

Run:  python benchmarks/estimate.py [--archs tiny small base] [--sizes 256 512] [--batch 2]

The recipe is UPerNet on ADE20K, with other backbones and sizes. "live" is what tensors hold at the peak of a
real step, "resident" how much the process grows in such a step, both above weights, optimiser state and
batch. Each row is of a process of its own.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bench import resident
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmonepeace import checks
from mmonepeace.checks.step_estimate import Step, measure_step
from mmonepeace.checks.synthetic_batch import synthetic_batch

RECIPE = "onepeace-base_upernet_ade20k-512"
WAYS = {
    "float32": {},
    "bf16": dict(dtype="bf16"),
    "float32, checkpointing": dict(with_cp=True),
    "bf16, checkpointing": dict(dtype="bf16", with_cp=True),
}
# The C library returns memory to the system at once, instead of keeping it for later.
RETURNING = dict(
    MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536", MALLOC_TOP_PAD_="0"
)
THERE_BEFORE = ("weights", "optimiser", "batch")


def config_of(case: dict[str, Any]) -> Config:
    """The recipe with what the case changes."""
    cfg = checks.read_config(RECIPE)
    cfg.model.backbone.update(
        arch=case["arch"], img_size=case["size"], with_cp=case.get("with_cp", False), init_cfg=None
    )
    half = case.get("dtype") == "bf16"
    cfg.optim_wrapper.type = "mmonepeace.BFloat16OptimWrapper" if half else "OptimWrapper"
    return cfg


def above(found: checks.Estimate) -> float:
    """GB above what is there before a step."""
    return (found.peak - sum(found.parts[name] for name in THERE_BEFORE)) / 1e9


def measure(case: dict[str, Any]) -> dict[str, float]:
    """GB by each way, and the seconds of the estimate."""
    cfg = config_of(case)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    batch = synthetic_batch(cfg, model, case["size"], case["batch"])
    step = Step(cfg, model, "cpu")
    step.run(batch)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    step.run(batch)
    grown = (resident("VmHWM") - before) / 1e9
    del step
    live = above(measure_step(cfg, model, batch, "cpu"))
    del model
    start = time.perf_counter()
    found = checks.estimate_step(cfg, "cpu", case["size"], case["batch"])
    return dict(
        guess=above(found),
        live=live,
        grown=grown,
        peak=found.peak / 1e9,
        seconds=time.perf_counter() - start,
    )


def in_own_process(case: dict[str, Any]) -> dict[str, float]:
    """What `measure` gives."""
    command = [sys.executable, __file__, "--measure", json.dumps(case)]
    done = subprocess.run(
        command, env=os.environ | RETURNING, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", nargs="+", default=["tiny", "small", "base"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(json.loads(args.measure))))
        return
    packages = ", ".join(f"{x} {version(x)}" for x in ("torch", "onedl-mmsegmentation"))
    print(
        "# Memory of a training step, estimated and measured\n\n"
        f"- Date: {date.today().isoformat()}\n"
        f"- Command: `python benchmarks/estimate.py {' '.join(sys.argv[1:])}`\n"
        f"- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads\n"
        f"- Versions: Python {platform.python_version()}, {packages}\n\n"
        "| backbone | px | step | estimate, GB | live, GB | off by | resident, GB | off by | "
        "peak with weights, GB | s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for arch in args.archs:
        for size in args.sizes:
            for name, way in WAYS.items():
                case = dict(arch=arch, size=size, batch=args.batch, **way)
                found = in_own_process(case)
                guess, live, grown = (found[key] for key in ("guess", "live", "grown"))
                print(
                    f"| {arch} | {size} | {name} | {guess:.3f} | {live:.3f} | {guess / live - 1:+.1%} "
                    f"| {grown:.3f} | {guess / grown - 1:+.1%} | {found['peak']:.3f} "
                    f"| {found['seconds']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
