"""Train a recipe of segmentation, detection, classification or a multimodal task.

Run:  mmonepeace train configs/onepeace_upernet_ade20k.py --work-dir work_dirs/mine
"""

import argparse
import os
from typing import TYPE_CHECKING

from mmonepeace import checks, engine
from mmonepeace.commands.options import add_training_options
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_training_options(parser, "bf16", "fp16")
    parser.add_argument("--checkpoint", help="pretrained weights, any layout")
    help = "average the weights with this decay, such as 0.9998, for evaluations and checkpoints"
    parser.add_argument("--ema", type=float, metavar="DECAY", help=help)
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> "Config":
    """The config with the command-line options applied."""
    cfg = checks.read_config(args.config)
    if cfg.get("runner_type") == "mmonepeace.PretrainRunner":
        raise checks.CheckError(
            f"{args.config} is a recipe of pretraining. Train it with mmonepeace pretrain."
        )
    checks.apply_overrides(cfg, args.cfg_options)
    engine.run_options.set_process(cfg, args)
    engine.run_options.set_data(cfg, args.data_root, args.tokenizer)
    if args.checkpoint:
        engine.run_options.set_checkpoint(cfg, args.checkpoint)
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
