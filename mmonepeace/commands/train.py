"""Train a recipe of segmentation, detection, classification or a multimodal task.

Run:  mmonepeace train configs/onepeace_upernet_ade20k.py --work-dir work_dirs/mine
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmonepeace import checks, engine
from mmonepeace.commands.options import add_precision_option
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--work-dir", help="logs and checkpoints (work_dirs/CONFIG)")
    parser.add_argument("--data-root", help="folder of the data set, instead of the config's")
    parser.add_argument("--tokenizer", metavar="JSON", help="instead of the config's")
    parser.add_argument("--checkpoint", help="pretrained weights, any layout")
    parser.add_argument(
        "--resume", nargs="?", const="auto", help="resume from PATH, or from the newest checkpoint"
    )
    help = "average the weights with this decay, such as 0.9998, for evaluations and checkpoints"
    parser.add_argument("--ema", type=float, metavar="DECAY", help=help)
    parser.add_argument("--compile", action="store_true", help="compile blocks, for GPUs")
    add_precision_option(parser, "bf16", "fp16")
    parser.add_argument(
        "--cfg-options", nargs="+", action=checks.OverridesAction, help="KEY=VALUE ..."
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check all, try some steps, keep nothing"
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> "Config":
    """The config with the command-line options applied."""
    cfg = checks.read_config(args.config)
    if cfg.get("runner_type") == "mmonepeace.PretrainRunner":
        raise checks.CheckError(
            f"{args.config} is a recipe of pretraining. Train it with mmonepeace pretrain."
        )
    checks.apply_overrides(cfg, args.cfg_options)
    engine.run_options.set_launcher(cfg, args.launcher)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
    if args.data_root:
        engine.run_options.set_data_root(cfg, args.data_root)
    if args.checkpoint:
        engine.run_options.set_checkpoint(cfg, args.checkpoint)
    if args.tokenizer:
        engine.run_options.set_tokenizer(cfg, args.tokenizer)
    if args.ema is not None:
        engine.run_options.set_average(cfg, args.ema)
    if args.compile:
        engine.run_options.set_compiled(cfg)
    if args.dtype:
        engine.run_options.set_precision(cfg, args.dtype)
    if args.resume:
        engine.run_options.set_resume(cfg, args.resume)
    return cfg


def run(args: argparse.Namespace) -> None:
    """Train."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    engine.launch(lambda: load_config(args), engine.FinetuneRunner, args.dry_run)


def main() -> int:
    """Run to the exit status."""
    return exit_status(
        lambda: run(parse_args()),
        interrupted="stopped before training began: no checkpoint was written.",
    )
