"""Faster R-CNN on BCCD, equal budgets: ONE-PEACE tiny against mmdet's ResNet-18, from scratch.

Run:    python benchmarks/det_bccd.py --data-root DIR [--seeds 0] [--steps 600]
Makes:  WORK_DIR/REPORT.md, to be kept as benchmarks/det_bccd_HARDWARE_DATE.md

Data, batch, steps and optimiser are the same; learning rate, warm-up and strides are those of each
recipe. Each model is also evaluated before training.
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
MODELS = {
    "ONE-PEACE tiny": "onepeace-tiny_faster-rcnn",
    "ResNet-18 (mmdet)": "resnet18_faster-rcnn",
}
SCORES = ("bbox_mAP", "bbox_mAP_50", "Platelets_precision", "RBC_precision", "WBC_precision")


def train(name: str, seed: int, steps: int, args: argparse.Namespace) -> dict[str, float]:
    """Train and evaluate once.

    Returns:
        COCO's AP over all thresholds, at 0.5, and of each class, in per cent; seconds a step (median
        of the logged ones); minutes.
    """
    work_dir = args.work_dir / f"{MODELS[name]}-{steps}-{seed}"
    file = work_dir / "result.json"
    if file.is_file():  # from an interrupted benchmark
        return json.loads(file.read_text())
    start = time.monotonic()
    subprocess.run(
        [
            sys.executable, str(ROOT / "tools/train.py"),
            str(ROOT / f"configs/tiny/{MODELS[name]}_bccd.py"),
            "--data-root", str(args.data_root), "--work-dir", str(work_dir), "--cfg-options",
            f"randomness.seed={seed}", f"train_cfg.max_iters={steps}",
            f"train_cfg.val_interval={steps}", f"param_scheduler.1.end={max(steps, 101)}",
            # One step at a learning rate of zero trains nothing.
            *(["optim_wrapper.optimizer.lr=0"] if steps == 1 else []),
            f"default_hooks.logger.interval={min(10, steps)}",
            f"default_hooks.checkpoint.interval={steps}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    newest = max(work_dir.glob("*/vis_data/scalars.json"), key=lambda path: path.stat().st_mtime)
    rows = [json.loads(line) for line in newest.read_text().splitlines()]
    scores = {key: value for row in rows for key, value in row.items() if key.startswith("coco/")}
    result = {key: 100 * scores[f"coco/{key}"] for key in SCORES}
    result["s/step"] = statistics.median(row["time"] for row in rows if "loss" in row)
    result["minutes"] = minutes
    file.write_text(json.dumps(result))
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark_det"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # whatever other jobs do
    seeds = " ".join(map(str, args.seeds))
    versions = ", ".join(
        f"{p} {version(p)}" for p in ("torch", "onedl-mmengine", "onedl-mmcv", "onedl-mmdetection")
    )
    lines = f"""# BCCD: ONE-PEACE tiny against ResNet-18, both with Faster R-CNN, from scratch

- Date: {date.today().isoformat()}
- Command: `python benchmarks/det_bccd.py --data-root DIR --seeds {seeds} --steps {args.steps}`
- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads
- Versions: Python {platform.python_version()}, {versions}
- Budget of each run: {args.steps} steps of 4 images of 320 x 240 px, AdamW with the learning rate of the recipe,
  cosine; evaluated once, on the 87 validation images, after the last step

| model | steps | AP | AP50 | Platelets | RBC | WBC | s/step | minutes |
|---|---|---|---|---|---|---|---|---|""".splitlines()
    for name in MODELS:
        for steps in (1, args.steps):
            runs = [train(name, seed, steps, args) for seed in args.seeds]
            mean = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
            cells = " | ".join(f"{mean[key]:.1f}" for key in (*SCORES, "s/step", "minutes"))
            lines.append(f"| {name} | {steps if steps > 1 else 'untrained'} | {cells} |")
            print(lines[-1], flush=True)
    report = args.work_dir / "REPORT.md"
    report.write_text("\n".join(lines) + "\n")
    print(report.read_text())


if __name__ == "__main__":
    main()
