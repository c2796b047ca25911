"""Distil a large model into a small one: images without labels teach it the features of a teacher.

Run:  mmonepeace distill configs/tiny/onepeace-tiny_distill_emoji-64.py --data-root DIR \\
          --checkpoint TEACHER
      mmonepeace distill CONFIG --features DIR --views 4    features of four crops, computed once
      mmonepeace distill CONFIG --resume
      torchrun --nproc-per-node 8 -m mmonepeace distill CONFIG --launcher pytorch --strategy fsdp2

The teacher is a checkpoint of ONE-PEACE, or with --timm NAME a vision transformer of timm, whose weights
are downloaded once or, with --checkpoint, read from a file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmonepeace import apis, checks, engine
from mmonepeace.commands.options import (
    add_strategy_options,
    add_training_options,
    make_parser,
    positive,
)
from mmonepeace.console import printable, progress_bar
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    add_training_options(parser, "bf16")
    parser.add_argument("--checkpoint", metavar="TEACHER", help="its weights, any layout and size")
    parser.add_argument("--timm", metavar="NAME", help="a teacher of timm, instead of the config's")
    help = "keep the features of the teacher in this folder, and train with them"
    parser.add_argument("--features", metavar="DIR", help=help)
    help = "of each file that --features has (1): with random crops, epochs repeat after so many"
    parser.add_argument("--views", type=positive, default=1, help=help)
    parser.add_argument(
        "--features-only", action="store_true", help="compute what --features lacks, and end"
    )
    add_strategy_options(parser)
    args = parser.parse_args()
    if args.views > 1 and not args.features:
        parser.error("--views is of --features: without, each epoch has views of its own")
    if args.features_only and (not args.features or args.dry_run):
        parser.error("--features-only needs --features DIR, and is no --dry-run")
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with the command-line options applied, but for the cached features."""
    cfg = checks.read_config(args.config)
    if "teacher" not in (cfg.get("model") or {}):
        raise checks.CheckError(
            f"{args.config} has no model.teacher: it is no recipe of distillation. Those are in "
            "configs/distill; train others with mmonepeace train or pretrain."
        )
    checks.apply_overrides(cfg, args.cfg_options)
    engine.run_options.set_process(cfg, args)
    engine.run_options.set_data(cfg, args.data_root, args.tokenizer)
    if args.timm:
        cfg.model.teacher = dict(type="mmonepeace.TimmTeacher", name=args.timm)
    if args.checkpoint:
        engine.run_options.set_teacher(cfg, args.checkpoint)
    if args.compile:
        engine.run_options.set_compiled(cfg)
    if args.dtype:
        engine.run_options.set_precision(cfg, args.dtype)
    engine.run_options.set_strategy(cfg, args.strategy, args.sharded)
    if args.resume:
        engine.run_options.set_resume(cfg, args.resume)
    return cfg


def fill_cache(args: argparse.Namespace) -> None:
    """Compute the features of the teacher that are missing in the folder.

    Raises:
        CheckError: if they cannot be cached, or several processes would compute them.
    """
    alone = dict(launcher="none", strategy=None, sharded=False)
    cfg = load_config(argparse.Namespace(**{**vars(args), **alone}))
    forget_absent_teacher(cfg)
    checks.check_settings(cfg)
    loader = cfg.train_dataloader
    with checks.explain(cfg, log=False):
        try:
            cache = apis.TeacherCache(args.features, cfg.model, loader.dataset, args.views)
            todo = cache.missing()
            if todo and args.launcher != "none":
                raise checks.CheckError(
                    f"{args.features} lacks the features of {len(todo):,} views. Compute them in one process "
                    "first: --features-only without --launcher."
                )
            shown = dict(desc="teacher", unit=" views", disable=not todo)
            with progress_bar(total=len(todo), **shown) as bar:
                computed = cache.fill(
                    todo,
                    loader.batch_size,
                    loader.get("num_workers", 0),
                    lambda done: bar.update(done - bar.n),
                )
        except (ValueError, OSError) as error:
            raise checks.CheckError(str(error)) from error
    print(f"{computed:,} views were computed; {printable(args.features)} has all of them")


def with_features(cfg: Config, args: argparse.Namespace) -> Config:
    """The config of a run that reads the features of the teacher, where that is wanted."""
    if not args.features or args.dry_run:
        return cfg
    dataset = cfg.train_dataloader.dataset
    (modality,) = dataset.columns
    *steps, pack = dataset.pipeline
    repeat = dict(type="mmonepeace.RepeatViews", views=args.views)
    load = dict(type="mmonepeace.LoadTeacherFeatures", folder=args.features, modality=modality)
    dataset.pipeline = [repeat, *steps, load, pack]
    cfg.model.cached = True
    forget_absent_teacher(cfg)
    return cfg


def forget_absent_teacher(cfg: Config) -> None:
    """Leave out a checkpoint that is not here: its features may have come from another machine."""
    path = cfg.model.teacher.get("checkpoint")
    if path and not Path(path).is_file():
        cfg.model.teacher.checkpoint = None


def run(args: argparse.Namespace) -> None:
    """Cache features, if that is wanted, and train."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.features and not args.dry_run:
        fill_cache(args)
    if not args.features_only:
        engine.launch(
            lambda: with_features(load_config(args), args), engine.PretrainRunner, args.dry_run
        )


def main() -> int:
    """Run to the exit status."""
    return exit_status(
        lambda: run(parse_args()),
        interrupted="stopped before training began: no checkpoint was written.",
    )
