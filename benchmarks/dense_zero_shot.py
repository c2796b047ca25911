"""Does a model that learnt names of whole pictures know where they are? mIoU of zero-shot segmentation.

Run:    python benchmarks/dense_zero_shot.py CKPT [CKPT ...] --downloads DIR/downloads
Needs:  checkpoints of configs/tiny/onepeace-tiny_vl_emoji-names-32.py, and the downloads of its data set
Makes:  WORK_DIR/{images,labels}, validation scenes of a seed of their own, and WORK_DIR/REPORT.md, to be
        kept as benchmarks/dense_zero_shot_HARDWARE_DATE.md

Scenes have an artist and photographs that training did not have. The background has no name that the
models know, and does not count (label 0).
"""

import argparse
import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools/dataset_converters"))

import emoji_scenes
import object_scenes
from downloads import fetch_npm
from emoji_sets import PACKAGES
from seeds import run_tool, spread

SEED, SIZE = 1, 96  # training has seed 0, and scenes of this size
# Names of training are parts of half a scene at 32 pixels.
VIEWS = {
    "whole, 64 px": ["--short-side", 64],
    "whole, 128 px": ["--short-side", 128],
    "64 px, windows of 32 every 8": ["--short-side", 64, "--window", 32, "--stride", 8],
    "64 px, windows of 48 every 8": ["--short-side", 64, "--window", 48, "--stride", 8],
    "96 px, windows of 32 every 8": ["--short-side", 96, "--window", 32, "--stride", 8],
}


def draw(work_dir: Path, downloads: Path, count: int) -> list[str]:
    """Draw the scenes and their label maps; the names of the classes, from label 1 on."""
    emoji_scenes._DRAWINGS.update(object_scenes.load_drawings(fetch_npm(PACKAGES, downloads)))
    names = list(object_scenes.KIND_OF)
    for index in range(count):
        by_name, _, size, rng = emoji_scenes.ingredients("val", index, SIZE, SEED)
        drawings: dict[int, Any] = {i: by_name[name] for i, name in enumerate(names, 1)}
        photographs = object_scenes.PHOTOGRAPHS["val"]
        image, labels = emoji_scenes.compose(drawings, photographs, size, rng)
        for folder, picture in (("images", image), ("labels", labels)):
            (work_dir / folder).mkdir(parents=True, exist_ok=True)
            emoji_scenes.save(picture, work_dir / folder / f"{index:05}.png")
    return names


def measure(args: argparse.Namespace, number: int, view: list[Any], values: bool) -> dict[str, Any]:
    """What `zero-shot --dense` measures of a checkpoint, in a view of the images."""
    out = args.work_dir / "ious.json"
    names = ",".join(object_scenes.KIND_OF)
    options = ["--images", args.work_dir / "images", "--labels", args.work_dir / "labels"]
    options += ["--reduce-zero-label", "--classes", names, "--template", "the {}", *view]
    options += ["--values"] * values
    run_tool("zero_shot", args.checkpoints[number], "--dense", *options, "--out", out)
    return json.loads(out.read_text())


def main() -> None:
    """Draw, measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--downloads", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/dense_zero_shot"))
    args = parser.parse_args()
    args.checkpoints = [path.resolve() for path in args.checkpoints]
    args.work_dir = args.work_dir.resolve()
    names = draw(args.work_dir, args.downloads, args.scenes)
    lines, found = list[str](), dict[str, Any]()
    for title, view in VIEWS.items():
        by_path = [
            [measure(args, i, view, values) for i in range(len(args.checkpoints))]
            for values in (False, True)
        ]
        found = by_path[0][0]["miou"]
        cells = [spread([100 * run["miou"]["patches"] for run in runs]) for runs in by_path]
        cells.append(spread([100 * run["miou"]["CLS"] for run in by_path[0]]))
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onedl-mmengine"))
    report = f"""# Zero-shot segmentation of emoji scenes

- Date: {date.today()}
- Command: `python benchmarks/dense_zero_shot.py CKPT ... --downloads DIR --scenes {args.scenes}`
- Hardware: {platform.machine()} CPU; versions: Python {platform.python_version()}, {versions}
- {len(args.checkpoints)} checkpoints of `configs/tiny/onepeace-tiny_vl_emoji-names-32.py`
- {args.scenes} scenes of {SIZE} px, held-out artist and photographs, {len(names)} classes: {", ".join(names)};
  the background does not count; prompt "the {{}}"

mIoU in per cent, mean ± standard deviation over the checkpoints. Random labels: {100 * found["chance"]:.1f};
the best constant class: {100 * found["constant"]:.1f}.

| view of the images | patches | patches, `--values` | CLS of the image or window |
|---|---|---|---|
{chr(10).join(lines)}
"""
    (args.work_dir / "REPORT.md").write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
