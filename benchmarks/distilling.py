"""A tiny encoder distilled, pretrained with labels, and from scratch: linear probe and segmentation.

Run:    python benchmarks/distilling.py --data-root DIR
Needs:  DIR/emoji/{train,val}.tsv, DIR/labelmefacade
Makes:  WORK_DIR/REPORT.md, to be kept as benchmarks/distilling_HARDWARE_DATE.md

The teacher is trained once, on emoji and their names. For each seed, a tiny encoder of one size
- learns the features of the teacher from the images alone ("distilled");
- is trained on the same images and their names, as the teacher is ("same labels");
- stays as it is initialised ("from scratch").
The first two take as many steps of as many images. Then each is probed and fine-tuned in the same way.
What has been done is not done again: the same command goes on after it was stopped.
"""

import argparse
import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from seeds import ROOT, run_tool, spread

from mmonepeace.commands.options import positive

LABELS = "configs/tiny/onepeace-tiny_vl-overlapping_emoji-64.py"
DISTILLED = "configs/tiny/onepeace-tiny_distill_emoji-64.py"
FACADES = "configs/tiny/onepeace-tiny-pretrained_upernet_labelmefacade-256.py"
WAYS = ("from scratch", "same labels", "distilled")
# The teacher's widths: about six times the parameters of the student.
TEACHER = ("embed_dim=192", "depth=4", "num_heads=6", "ffn_dim=384")


def schedule(steps: int, seed: int) -> list[str]:
    """Options of a run of pretraining or distillation."""
    return [
        f"train_cfg.max_iters={steps}", f"param_scheduler.1.end={steps}", f"randomness.seed={seed}",
        f"default_hooks.checkpoint.interval={max(1, steps // 10)}",
    ]  # fmt: skip


def trained(args: argparse.Namespace, folder: Path, steps: int, seed: int, *widths: str) -> Path:
    """The checkpoint after pretraining on images and names."""
    last = folder / f"iter_{steps}.pth"
    if not last.exists():
        options = [*schedule(steps, seed), f"train_cfg.val_interval={steps}"]
        options += [f"model.backbone.arch.{width}" for width in widths]
        run_tool(
            "pretrain", ROOT / LABELS, "--data-root", args.data_root / "emoji", "--tokenizer",
            args.tokenizer, "--work-dir", folder, "--resume", "--cfg-options", *options,
        )  # fmt: skip
    return last


def student(args: argparse.Namespace, way: str, seed: int, teacher: Path) -> Path:
    """The checkpoint of a student."""
    folder = args.work_dir / f"{way.replace(' ', '-')}-{seed}"
    if way == "same labels":
        return trained(args, folder, args.steps, seed)
    steps = args.steps if way == "distilled" else 1
    last = folder / f"iter_{steps}.pth"
    if not last.exists():
        options = schedule(steps, seed)
        if way == "from scratch":  # a step that is smaller than what the weights can show
            options = [x for x in options if not x.startswith("param_scheduler")]
            options += ["optim_wrapper.optimizer.lr=1e-15", "param_scheduler=None"]
        run_tool(
            "distill", ROOT / DISTILLED, "--data-root", args.data_root / "emoji", "--checkpoint",
            teacher, "--work-dir", folder, "--resume", "--cfg-options", *options,
        )  # fmt: skip
    return last


def probed(args: argparse.Namespace, path: Path) -> dict[str, float]:
    """Top-1 in per cent of linear probes of the mean of patches, on another artist's drawings."""
    table = path.parent / "probe.csv"
    emoji = args.data_root / "emoji"
    run_tool(
        "probe", path, "--modality", "image", "--train", emoji / "train.tsv", "--val",
        emoji / "val.tsv", "--label-column", "group", "--kind", "linear", "--features", "mean",
        "--out", table,
    )  # fmt: skip
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    (chosen,) = [
        values for row in rows if (values := dict(zip(header, row, strict=True)))["chosen"] == "yes"
    ]
    return {"probe": float(chosen["val_top1"]), "chance": float(chosen["val_chance"])}


def segmented(args: argparse.Namespace, path: Path, seed: int) -> dict[str, float]:
    """MIoU in per cent of LabelMeFacade's validation after fine-tuning."""
    folder = path.parent / "facades"
    run_tool(
        "train", ROOT / FACADES, "--data-root", args.data_root / "labelmefacade", "--checkpoint",
        path, "--work-dir", folder, "--cfg-options", f"randomness.seed={seed}",
        f"train_cfg.max_iters={args.facade_steps}", f"train_cfg.val_interval={args.facade_steps}",
        f"param_scheduler.1.end={args.facade_steps}",
        f"default_hooks.checkpoint.interval={max(1, args.facade_steps // 10)}",
    )  # fmt: skip
    newest = max(folder.glob("*/vis_data/scalars.json"), key=lambda file: file.stat().st_mtime)
    rows = [json.loads(line) for line in newest.read_text().splitlines()]
    return {"mIoU": next(row["mIoU"] for row in reversed(rows) if "mIoU" in row)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teacher", type=Path, metavar="CKPT", help="instead of training one")
    parser.add_argument("--teacher-steps", type=positive, default=3000)
    parser.add_argument("--steps", type=positive, default=1000)
    parser.add_argument("--facade-steps", type=positive, default=600)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark_distilling"))
    args = parser.parse_args()
    for name in ("data_root", "work_dir", "teacher"):
        if getattr(args, name):
            setattr(args, name, getattr(args, name).resolve())
    args.tokenizer = args.work_dir / "tokenizer.json"
    if not args.tokenizer.exists():
        captions = args.data_root / "emoji/train.tsv"
        run_tool("train_tokenizer", captions, args.tokenizer, "--vocab-size", 2000)
    teacher = args.teacher or trained(
        args, args.work_dir / "teacher", args.teacher_steps, 3407, *TEACHER
    )
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in args.seeds:
        for way in WAYS:
            file = args.work_dir / f"result-{way.replace(' ', '-')}-{seed}.json"
            if not file.is_file():
                path = student(args, way, seed, teacher)
                file.write_text(json.dumps(probed(args, path) | segmented(args, path, seed)))
            results[way].append(json.loads(file.read_text()))
            print(f"seed {seed}  {way:12}  {results[way][-1]}", file=sys.stderr, flush=True)
    taught = probed(args, teacher)
    (args.work_dir / "REPORT.md").write_text(report(args, taught, results))
    print((args.work_dir / "REPORT.md").read_text())


def report(
    args: argparse.Namespace,
    teacher: dict[str, float],
    results: dict[str, list[dict[str, float]]],
) -> str:
    """The dated report."""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "onedl-mmengine"))
    seeds = " ".join(map(str, args.seeds))
    taught_by = "a given checkpoint" if args.teacher else f"{args.teacher_steps} steps"
    lines = f"""# A tiny encoder distilled, with the same labels, and from scratch

- Date: {date.today().isoformat()}
- Command: `python benchmarks/distilling.py --data-root DIR --seeds {seeds} --steps {args.steps} --facade-steps {args.facade_steps}`
- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads
- Versions: Python {platform.python_version()}, {versions}
- Teacher: {taught_by}; its own linear probe {teacher["probe"]:.1f} %, chance {teacher["chance"]:.1f} %
- Students: {args.steps} steps of 128 images of emoji. Probe: eight groups, drawings of another artist. LabelMeFacade:
  {args.facade_steps} steps of fine-tuning. Mean and standard deviation of the seeds

| encoder | linear probe, top-1 of seeds {seeds} | mean | mIoU of seeds {seeds} | mean |
|---|---|---|---|---|""".splitlines()
    for way, runs in results.items():
        cells = []
        for key in ("probe", "mIoU"):
            values = [run[key] for run in runs]
            cells.append(", ".join(f"{value:.1f}" for value in values))
            cells.append(f"**{spread(values)}**")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
