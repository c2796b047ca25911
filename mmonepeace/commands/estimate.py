"""Estimate the memory and the operations of a training step of a recipe, without running it.

Run:  mmonepeace estimate CONFIG [--img 896] [--batch 1] [--dtype bf16] [--lora RANK] [--with-cp]
          [--fsdp 8] [--device cuda] [--json OUT]

Nothing is read but the recipe, and no weights are allocated: the step runs on tensors without numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mmonepeace import checks, engine
from mmonepeace.atomic_file import atomic_file
from mmonepeace.commands.options import make_parser, positive
from mmonepeace.console import printable, table
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmonepeace.checks import Estimate

GPUS = (24, 40, 80, 141)  # GB


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("config")
    help = "side of the images, and of the grid of the backbone; default: the recipe's"
    parser.add_argument("--img", type=positive, metavar="PIXELS", help=help)
    parser.add_argument(
        "--batch", type=positive, help="samples of a process; default: the recipe's"
    )
    help = "of products; default: the recipe's"
    parser.add_argument("--dtype", choices=("bf16", "fp16", "float32"), help=help)
    parser.add_argument("--lora", type=positive, metavar="RANK", help="train LoRA on the blocks")
    parser.add_argument("--with-cp", action="store_true", help="activation checkpointing")
    help = "average the weights with this decay, such as 0.9998"
    parser.add_argument("--ema", type=float, metavar="DECAY", help=help)
    help = "processes that share weights, gradients and optimiser state: what each of them needs"
    parser.add_argument("--fsdp", type=positive, default=1, metavar="PROCESSES", help=help)
    help = "that the recipe will be trained on (cuda); it need not be here"
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=help)
    parser.add_argument(
        "--cfg-options", nargs="+", action=checks.OverridesAction, help="KEY=VALUE ..."
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all values, for programs")
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command-line options applied."""
    cfg = checks.read_config(args.config)
    checks.apply_overrides(cfg, args.cfg_options)
    if args.dtype:
        wrappers = {"bf16": "mmonepeace.BFloat16OptimWrapper", "fp16": "AmpOptimWrapper"}
        cfg.optim_wrapper.type = wrappers.get(args.dtype, "OptimWrapper")
    if args.ema is not None:
        engine.run_options.set_average(cfg, args.ema)
    backbone = (cfg.get("model") or {}).get("backbone")
    if backbone is None:
        if args.img or args.lora or args.with_cp:
            raise checks.CheckError(f"{args.config} has no model.backbone to change.")
        return cfg
    if args.img and "img_size" in backbone:
        backbone.img_size = args.img
    if args.lora:
        backbone.lora = dict(backbone.get("lora") or {}, rank=args.lora)
    if args.with_cp:
        backbone.with_cp = True
    return cfg


def report(found: Estimate) -> str:
    """What a step needs, as a table."""
    sizes = ", ".join(f"{name} {' x '.join(map(str, size))}" for name, size in found.sizes.items())
    share = f", each of {found.shards} processes" if found.shards > 1 else ""
    lines = [
        f"{found.parameters:,} parameters, {found.trained:,} of them trained",
        f"a batch of {found.batch}: {sizes}; {found.dtype} on {found.device}{share}",
        "",
    ]
    rows = [
        (title, gigabytes(size), f"{size / found.peak:.0%}") for title, size in found.rows() if size
    ]
    where = {"forward": "forward pass", "backward": "backward pass", "update": "update"}
    rows.append((f"peak, in the {where[found.peak_phase]}", gigabytes(found.peak), "100%"))
    lines.append(table(("", "GB", "share"), rows, "lrr"))
    tera = {name: f"{count / 1e12:.3g} TFLOP" for name, count in found.operations.items()}
    lines += [
        "",
        f"kept for the backward pass in all: {gigabytes(found.activations)} GB",
        f"operations of a step: forward {tera['forward']}, backward {tera['backward']}",
        f"operations of inference: {tera['inference']}",
        *found.notes,
        fits(found.peak),
    ]
    return "\n".join(lines)


def gigabytes(size: int) -> str:
    """Bytes as GB, of small models with more digits."""
    return f"{size / 1e9:.2f}" if size >= 1e9 else f"{size / 1e9:.4f}"


def fits(peak: int) -> str:
    """On which GPUs a step fits, with a twentieth left for what is not seen."""
    able = [str(size) for size in GPUS if peak / 0.95 <= size * 1e9]
    if not able:
        return f"fits on none of {', '.join(map(str, GPUS))} GB"
    return f"fits on {', '.join(able)} GB"


def run(args: argparse.Namespace) -> None:
    """Print the report."""
    found = checks.estimate_step(load_config(args), args.device, args.img, args.batch, args.fsdp)
    print(printable(report(found)))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.json) as temporary:
            content = {"config": args.config, **found.to_dict()}
            temporary.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()))
