"""Pretrain on pairs: stage vl on images and texts, stage al on audio and texts.

Run:  mmonepeace pretrain configs/tiny/onepeace-tiny_vl_emoji-64.py --data-root DIR
      mmonepeace pretrain CONFIG_OF_STAGE_AL --stage-one work_dirs/VL/iter_200000.pth
      mmonepeace pretrain CONFIG --resume
      tools/dist_pretrain.sh CONFIG GPUS --strategy fsdp2 --sharded
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--stage", choices=["vl", "al"], help="for a recipe with all modalities")
    parser.add_argument("--stage-one", metavar="CKPT", help="checkpoint that stage al starts from")
    parser.add_argument("--work-dir", help="logs and checkpoints (work_dirs/CONFIG)")
    parser.add_argument("--data-root", help="folder of the data sets, instead of the config's")
    parser.add_argument("--tokenizer", metavar="JSON", help="instead of the config's")
    parser.add_argument(
        "--resume", nargs="?", const="auto", help="resume from PATH, or from the newest checkpoint"
    )
    parser.add_argument(
        "--strategy",
        choices=["ddp", "fsdp2"],
        help="with several processes: replicate or shard the model",
    )
    parser.add_argument("--sharded", action="store_true", help="sharded checkpoints (fsdp2)")
    parser.add_argument("--compile", action="store_true", help="compile blocks, for GPUs")
    add_precision_option(parser, "bf16")
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
    if cfg.get("runner_type") != "mmonepeace.PretrainRunner":
        raise checks.CheckError(
            f"runner_type is {cfg.get('runner_type')!r} in {args.config}, and 'mmonepeace.PretrainRunner' "
            "in recipes of pretraining. Train others with mmonepeace train."
        )
    checks.apply_overrides(cfg, args.cfg_options)
    if args.stage:
        engine.run_options.set_stage(cfg, args.stage)
    engine.run_options.set_launcher(cfg, args.launcher)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
    if args.data_root:
        engine.run_options.set_data_root(cfg, args.data_root)
    if args.tokenizer:
        engine.run_options.set_tokenizer(cfg, args.tokenizer)
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
