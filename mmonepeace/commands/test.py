"""Evaluate a checkpoint.

Run:  mmonepeace test CONFIG CHECKPOINT [--dtype bf16] [--tta] [--show-dir DIR] [--out DIR]
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmonepeace import checkpoint, checks, engine
from mmonepeace.commands.options import (
    add_precision_option,
    add_process_options,
    add_recipe_options,
)
from mmonepeace.exit_status import exit_status
from mmonepeace.garbage import no_garbage

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_options(parser)
    add_process_options(parser)
    parser.add_argument("checkpoint", help="file, or work directory with one")
    parser.add_argument("--adapter", metavar="DIR", help="merge this adapter into the checkpoint")
    add_precision_option(parser, "bf16")
    parser.add_argument("--tta", action="store_true", help="average over scales and flips")
    parser.add_argument("--show-dir", help="draw the predictions into this folder")
    parser.add_argument("--out", help="write the predictions here: PNG, or COCO's json")
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> "Config":
    """The config with the command-line options applied."""
    cfg = checks.read_config(args.config)
    checks.apply_overrides(cfg, args.cfg_options)
    engine.run_options.set_process(cfg, args)
    cfg.model.backbone.init_cfg = cfg.model.init_cfg = None
    cfg.load_from, cfg.resume = None, False
    engine.run_options.set_data(cfg, args.data_root, args.tokenizer)
    # Drawing an image takes longer than predicting it: only on demand.
    cfg.default_hooks.pop("visualization", None)
    detection = checks.is_detection(cfg)
    if args.show_dir and detection:
        folder = str(
            Path(args.show_dir).resolve()
        )  # the hook joins relative paths with the work directory
        cfg.default_hooks.visualization = dict(
            type="DetVisualizationHook", draw=True, test_out_dir=folder
        )
    elif args.show_dir:
        cfg.default_hooks.visualization = dict(type="SegVisualizationHook", draw=True, interval=1)
        cfg.visualizer.save_dir = args.show_dir
    if args.dtype:
        engine.run_options.check_bfloat16(cfg)
    if args.out:
        results = dict(output_dir=args.out)
        if detection:
            Path(args.out).mkdir(parents=True, exist_ok=True)
            results = dict(outfile_prefix=f"{args.out}/results")
        for name, metric in checks.metric_configs(cfg):
            if name == "test_evaluator":
                metric.update(results)
    return cfg


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    with engine.quiet_terminal():
        with no_garbage():  # imports the library of the recipe
            cfg = load_config(args)
            path = checkpoint.find(args.checkpoint)
            checks.check_settings(cfg, ("test_dataloader",))
            checks.check_data(cfg, ("test_dataloader",))
        if args.tta:
            engine.run_options.set_tta(cfg)
        with checks.explain(cfg):
            runner = engine.FinetuneRunner.from_cfg(cfg)
            model = runner.model.module if args.launcher != "none" else runner.model
            print(checkpoint.load_model(model.module if args.tta else model, path, args.adapter))
            if args.dtype:
                engine.run_options.evaluate_in_bfloat16(model)
            runner.test()


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()))
