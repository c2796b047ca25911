"""Inference of the encoder-only mask transformer next to ViT-Adapter with Mask2Former, of equal sizes.

Run:  python benchmarks/eomt.py [--only tiny base] [--rounds 7] [--threads 1] [--device cpu|cuda]

The models of the recipes, with random weights, predict one image of their crop size, logits of pixels
included. They and the plain backbone alternate in one process; medians and quartiles are printed, and the
operations of products, convolutions and attention. On a CPU the time is that of the processor, which other
jobs change little with one thread, and the time that passes is in brackets. Needs mmdetection and mmcv with compiled operators.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from runs import Run, operations_of, seconds

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Name -> (EoMT, Mask2Former, side of the image).
PAIRS = {
    "tiny": (
        "tiny/onepeace-tiny_eomt_emoji-128.py",
        "tiny/onepeace-tiny_vit-adapter_mask2former_emoji-128.py",
        128,
    ),
    "base": (
        "seg/onepeace-base_eomt_ade20k-512.py",
        "seg/onepeace-base_vit-adapter_mask2former_ade20k-512.py",
        512,
    ),
}
ROWS = ("EoMT", "ViT-Adapter and Mask2Former", "the backbone alone")


def segmentor(path: str, device: str) -> Any:
    """The model of a recipe, for inference."""
    cfg = Config.fromfile(CONFIGS / path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    # One GPU has no other processes to average over.
    text = cfg.pretty_text.replace("SyncBN", "BN")
    return MODELS.build(Config.fromstring(text, ".py").model).to(device).eval()


def plain(path: str, device: str) -> Any:
    """The backbone of a recipe without queries."""
    options = dict(Config.fromfile(CONFIGS / path).model.backbone)
    known = ("arch", "img_size", "rpb", "layer_scale_init", "init_std")
    options = {key: options[key] for key in known if key in options}
    return MODELS.build(dict(type="mmonepeace.OnePeace", **options)).to(device).eval()


def runs(name: str, device: str) -> Iterable[tuple[str, Any, Run]]:
    """(what, model, one prediction) of a pair and of its backbone."""
    eomt, mask2former, side = PAIRS[name]
    image = torch.randn(1, 3, side, side, device=device)
    metas = [dict(img_shape=(side, side), pad_shape=(side, side), ori_shape=(side, side))]
    for row, path in zip(ROWS, (eomt, mask2former), strict=False):
        model = segmentor(path, device)
        yield row, model, lambda model=model: model.encode_decode(image, metas)
    backbone = plain(eomt, device)
    yield ROWS[2], backbone, lambda: backbone(image)


def table(name: str, args: argparse.Namespace) -> list[str]:
    """Rows of the report."""
    found = list(runs(name, args.device))
    times: dict[str, list[float]] = {row: [] for row, _, _ in found}
    passed: dict[str, list[float]] = {row: [] for row, _, _ in found}
    for turn in range(args.rounds + 1):
        for row, _, run in found if turn % 2 else reversed(found):
            start = time.process_time()
            wall = seconds(run, args.device)
            taken = time.process_time() - start if args.device == "cpu" else wall
            if turn:  # warm-up
                times[row].append(taken)
                passed[row].append(wall)
    first = statistics.median(times[ROWS[0]])
    lines = []
    for row, model, run in found:
        middle = statistics.median(times[row])
        low, _, high = statistics.quantiles(times[row], n=4)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        lines.append(
            f"| {name}, {PAIRS[name][2]} px | {row} | {1e3 * middle:.1f} "
            f"({1e3 * statistics.median(passed[row]):.1f}) | {1e3 * low:.1f} to {1e3 * high:.1f} | {middle / first:.2f} | {operations_of(run) / 1e9:.1f} | {millions:.1f} |"
        )
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    packages = ("torch", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU"
    print(f"- Date: {date.today().isoformat()}")
    print(f"- Command: `python benchmarks/eomt.py {' '.join(sys.argv[1:])}`")
    print(f"- Hardware: {where}, {args.threads} threads")
    print(f"- Versions: Python {platform.python_version()}, {versions}\n")
    print("| size | model | ms (passed) | quartiles | time / EoMT | GFLOP | M parameters |")
    print("|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for name in args.only:
            print("\n".join(table(name, args)), flush=True)


if __name__ == "__main__":
    main()
