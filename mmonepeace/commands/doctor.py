"""Examine the data of a config before training: faults, their fixes, histograms.

Run:  mmonepeace doctor CONFIG [--data-root DIR] [--tokenizer FILE] [--checkpoint CKPT]
          [--limit 500] [--json findings.json]

Exits with 0 if there are no errors, 1 if there are, 2 if the config cannot be used.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from mmonepeace import checks, engine
from mmonepeace.atomic_file import atomic_file
from mmonepeace.commands.options import add_recipe_options
from mmonepeace.console import printable
from mmonepeace.exit_status import exit_status

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_recipe_options(parser)
    parser.add_argument("--checkpoint", help="pretrained weights that training will start from")
    parser.add_argument(
        "--limit", type=int, help="read this many files of each split, drawn at random"
    )
    parser.add_argument("--json", type=Path, help="write all findings here, for programs")
    return parser.parse_args()


def load_config(args: argparse.Namespace) -> "Config":
    """The config with the command-line options applied."""
    cfg = checks.read_config(args.config, builds_model=False)
    checks.apply_overrides(cfg, args.cfg_options)
    engine.run_options.set_data(cfg, args.data_root, args.tokenizer)
    if args.checkpoint:
        engine.run_options.set_checkpoint(cfg, args.checkpoint)
    if args.limit is not None and args.limit < 1:
        raise checks.CheckError(f"--limit {args.limit}: expected 1 or more.")
    return cfg


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    report = checks.examine(load_config(args), args.limit)
    print(printable(str(report)))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.json) as temporary:
            content = {"config": args.config, **report.to_dict()}
            temporary.write_text(json.dumps(content, indent=1))
    return 1 if report.of("error") else 0


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()))
