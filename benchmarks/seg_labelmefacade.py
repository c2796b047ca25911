"""ONE-PEACE tiny against mmseg's ViT-tiny: UPerNet on LabelMeFacade, from scratch, equal budget.

Run:   python benchmarks/seg_labelmefacade.py --data-root DIR [--seeds 0 1 2] [--steps 500]
Makes: work_dirs/benchmark/REPORT.md, to be kept as benchmarks/seg_labelmefacade_HARDWARE_DATE.md

Both models share data, crop, batch, steps, optimiser, schedule, heads and seeds; each brings its
own backbone and neck. Runs alternate, so that a change of the machine's speed hits both.
"""

import argparse
import json
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
MODELS = {"ONE-PEACE tiny": "onepeace", "ViT-tiny (mmseg)": "vit"}


def train(model: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train and evaluate once.

    Returns:
        mIoU, aAcc and mAcc in percent, seconds a step (median of the logged ones), minutes.
    """
    work_dir = args.work_dir / f"{model}-{seed}"
    config = ROOT / f"configs/tiny/{model}-tiny_upernet_labelmefacade-256.py"
    start = time.monotonic()
    subprocess.run(
        [
            sys.executable, str(ROOT / "tools/train.py"), str(config),
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
    args = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    for seed in args.seeds:
        for name, model in MODELS.items():
            results[name].append(train(model, seed, args))
            print(f"seed {seed}  {name:18} mIoU {results[name][-1]['mIoU']:.2f}", flush=True)

    seeds = " ".join(map(str, args.seeds))
    versions = ", ".join(
        f"{p} {version(p)}"
        for p in ("torch", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation")
    )
    command = (
        f"python benchmarks/seg_labelmefacade.py --data-root DIR --seeds {seeds} "
        f"--steps {args.steps} --lr {args.lr:g}"
    )
    lines = f"""# LabelMeFacade: ONE-PEACE tiny against ViT-tiny, both with UPerNet, from scratch

- Date: {date.today().isoformat()}
- Command: `{command}`
- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads
- Versions: Python {platform.python_version()}, {versions}
- Budget of each run: {args.steps} steps of 8 crops of 256 px, AdamW, cosine; evaluated once, on the
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
