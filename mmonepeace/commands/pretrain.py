"""Pretrain on pairs: stage vl on images and texts, stage al on audio and texts.

Run:  mmonepeace pretrain configs/tiny/onepeace-tiny_vl_emoji-64.py --data-root DIR
      mmonepeace pretrain CONFIG_OF_STAGE_AL --stage-one work_dirs/VL/iter_200000.pth
      mmonepeace pretrain CONFIG --resume
      tools/dist_pretrain.sh CONFIG GPUS --strategy fsdp2 --sharded
"""

import argparse
import os
from typing import TYPE_CHECKING

from mmonepeace import checks, engine
from mmonepeace.commands.options import add_strategy_options, add_training_options
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_training_options(parser, "bf16")
    parser.add_argument("--stage", choices=["vl", "al"], help="for a recipe with all modalities")
    parser.add_argument("--stage-one", metavar="CKPT", help="checkpoint that stage al starts from")
    add_strategy_options(parser)
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> "Config":
    """The config with the command-line options applied."""
    cfg = checks.read_config(args.config)
    if cfg.get("runner_type") != "mmonepeace.PretrainRunner":
        raise checks.CheckError(
            f"runner_type is {cfg.get('runner_type')!r} in {args.config}, and 'mmonepeace.PretrainRunner' "
            "in recipes of pretraining. Train others with mmonepeace train."
        )
    checks.apply_overrides(cfg, args.cfg_options)
    if args.stage:
        engine.run_options.set_stage(cfg, args.stage)
    engine.run_options.set_process(cfg, args)
    engine.run_options.set_data(cfg, args.data_root, args.tokenizer)
    if args.stage_one:
        cfg.stage_one = args.stage_one
    if args.compile:
        engine.run_options.set_compiled(cfg)
    if args.dtype:
        engine.run_options.set_precision(cfg, args.dtype)
    engine.run_options.set_strategy(cfg, args.strategy, args.sharded)
    if args.resume:
        engine.run_options.set_resume(cfg, args.resume)
    return cfg


def run(args: argparse.Namespace) -> None:
    """Pretrain."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    engine.launch(lambda: load_config(args), engine.PretrainRunner, args.dry_run)


def main() -> int:
    """Run to the exit status."""
    return exit_status(
        lambda: run(parse_args()),
        interrupted="stopped before training began: no checkpoint was written.",
    )
