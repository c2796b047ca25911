"""UPerNet on LabelMeFacade, equal budgets: ONE-PEACE tiny against mmseg's ViT-tiny, from scratch; or
the encoder of emoji and their names, from scratch and pretrained.

Run:   python benchmarks/seg_labelmefacade.py --data-root DIR [--seeds 0 1 2] [--steps 500]
       ... --pretrained 'work_dirs/benchmark_recipes/emoji-val-{seed}/iter_3000.pth'
Makes: WORK_DIR/REPORT.md, to be kept as benchmarks/seg_labelmefacade_HARDWARE_DATE.md

Two models share data, batch, steps and seeds. The encoder of pretraining has the same recipe in both
runs; ONE-PEACE tiny has its own crops, schedule and light head, the ViT those that both had in the
report of 2026-11-22. Runs alternate, so that a change of the machine's speed hits both.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"ONE-PEACE tiny": "onepeace-tiny", "ViT-tiny (mmseg)": "vit-tiny"}
STARTS = {"from scratch": "onepeace-tiny-pretrained", "pretrained": "onepeace-tiny-pretrained"}


def train(name: str, model: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train and evaluate once.

    Returns:
        mIoU, aAcc and mAcc in percent, seconds a step (median of the logged ones), minutes.
    """
    work_dir = args.work_dir / f"{name}-{seed}"
    config = ROOT / f"configs/tiny/{model}_upernet_labelmefacade-256.py"
    checkpoint = args.pretrained.format(seed=seed) if name == "pretrained" else None
    start = time.monotonic()
    subprocess.run(
        [
            sys.executable, str(ROOT / "tools/train.py"), str(config),
            *(("--checkpoint", checkpoint) if checkpoint else ()),
            "--data-root", str(args.data_root), "--work-dir", str(work_dir), "--cfg-options",
            f"randomness.seed={seed}", f"train_cfg.max_iters={args.steps}",
            f"train_cfg.val_interval={args.steps}", f"param_scheduler.1.end={args.steps}",
            f"optim_wrapper.optimizer.lr={args.lr}", "default_hooks.logger.interval=10",
            f"default_hooks.checkpoint.interval={args.steps}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    newest = max(work_dir.glob("*/vis_data/scalars.json"), key=lambda path: path.stat().st_mtime)
    rows = [json.loads(line) for line in newest.read_text().splitlines()]
    result = {
        key: value for row in rows for key, value in row.items() if key in ("mIoU", "aAcc", "mAcc")
    }
    result["s/step"] = statistics.median(row["time"] for row in rows if "loss" in row)
    return {**result, "minutes": minutes}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark"))
    parser.add_argument("--pretrained", metavar="CKPT", help="with {seed} for each seed's own")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # whatever other jobs do
    models = STARTS if args.pretrained else MODELS
    title = (
        "the encoder of the tiny pretraining with UPerNet, pretrained or not"
        if args.pretrained
        else "ONE-PEACE tiny against ViT-tiny, both with UPerNet, from scratch"
    )
    results: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for seed in args.seeds:
        for name, model in models.items():
            results[name].append(train(name, model, seed, args))
            print(f"seed {seed}  {name:18} mIoU {results[name][-1]['mIoU']:.2f}", flush=True)

    seeds = " ".join(map(str, args.seeds))
    versions = ", ".join(
        f"{p} {version(p)}"
        for p in ("torch", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation")
    )
    command = (
        f"python benchmarks/seg_labelmefacade.py --data-root DIR --seeds {seeds} "
        f"--steps {args.steps} --lr {args.lr:g}"
        + (f" --pretrained '{args.pretrained}'" if args.pretrained else "")
    )
    lines = f"""# LabelMeFacade: {title}

- Date: {date.today().isoformat()}
- Command: `{command}`
- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads
- Versions: Python {platform.python_version()}, {versions}
- Budget of each run: {args.steps} steps of 8 crops of the recipe's size, AdamW, cosine; evaluated once, on the
  142 validation photographs, after the last step

| model | mIoU of seeds {seeds} | mean mIoU ± std | mean aAcc | s/step | minutes |
|---|---|---|---|---|---|""".splitlines()
    for name, runs in results.items():
        scores = [run["mIoU"] for run in runs]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        lines.append(
            f"| {name} | {', '.join(f'{score:.2f}' for score in scores)} | "
            f"**{mean['mIoU']:.2f} ± {spread:.2f}** | {mean['aAcc']:.2f} | {mean['s/step']:.2f} | "
            f"{mean['minutes']:.1f} |"
        )
    report = args.work_dir / "REPORT.md"
    report.write_text("\n".join(lines) + "\n")
    print(report.read_text())


if __name__ == "__main__":
    main()
