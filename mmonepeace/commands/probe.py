"""Measure how well classes can be predicted from the frozen features of a checkpoint.

Run:  mmonepeace probe CKPT --modality image --train train.tsv --val val.tsv --label-column group \\
          --kind linear --out results.csv
      mmonepeace probe CKPT --modality image --train all.tsv --folds 5 --label-column group \\
          --kind linear --out results.csv
      mmonepeace probe CKPT --modality audio --train DIR/train --val DIR/val \\
          --kind knn linear attentive --cache features --out results.csv --plot confusion.png

A table (.tsv, .csv, .jsonl) has paths in the column `image` or `audio`, relative to --data-root, by default
its folder; a folder has one folder for each class. Settings are chosen on a fifth of train that is
held out; then the probe is fitted to all of train. With --folds each of K folds is measured with a probe
fitted to the others: mean and standard deviation. Accuracies are in per cent; chance is that of
always predicting the most frequent class.
"""

import argparse
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, get_args

from mmonepeace import apis, checkpoint, visualization
from mmonepeace.apis.sources import check_splits, read_labelled_files
from mmonepeace.choices import Feature, Probe
from mmonepeace.commands.options import (
    add_model_options,
    add_option,
    build_embedder,
    exit_code,
    list_failed,
    make_parser,
    positive,
)
from mmonepeace.console import printable, table
from mmonepeace.datasets.file_folders import SUFFIXES


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--modality", required=True, choices=SUFFIXES)
    parser.add_argument("--train", required=True, metavar="TABLE", help="or folder")
    parser.add_argument("--val", metavar="TABLE", help="or folder")
    parser.add_argument("--test", metavar="TABLE", help="or folder")
    parser.add_argument("--label-column", metavar="COLUMN", help="of the tables")
    parser.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate train, without --val"
    )
    add_option(parser, "--data-root", "--root", type=Path, help="of the tables' paths")
    parser.add_argument("--kind", required=True, nargs="+", choices=get_args(Probe))
    help = "default: tokens of attentive; embedding, or cls where there are no projections"
    parser.add_argument("--features", choices=get_args(Feature), help=help)
    help = "settings to try: k of knn, C of linear, learning rate of attentive"
    parser.add_argument("--grid", type=float, nargs="+", metavar="VALUE", help=help)
    parser.add_argument("--epochs", type=positive, help="of attentive; default: 20, or 400 steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep the features")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the confusions")
    args = parser.parse_args()
    if bool(args.val) == bool(args.folds) or (args.folds and args.test):
        parser.error("give --val (and --test), or --folds alone")
    if args.folds is not None and args.folds < 2:
        parser.error(f"--folds {args.folds}: at least 2")
    if args.grid and (len(args.kind) > 1 or not all(0 < value < math.inf for value in args.grid)):
        parser.error("--grid takes numbers above 0, for one --kind")
    if args.out.is_dir():
        parser.error(f"--out {args.out} is a folder; name a file, such as {args.out}/results.csv")
    if args.features and (args.features == "tokens") != (args.kind == ["attentive"]):
        parser.error(f"--features {args.features}: attentive takes tokens, and no other kind does")
    return args


def run(args: argparse.Namespace) -> None:
    """Extract features, probe them, write and draw."""
    from mmonepeace.apis.probe import KINDS, probe_files, to_row
    from mmonepeace.evaluation.classification import pool

    errors: dict[str, str] = {}  # path -> reason
    sources = {"train": args.train, "val": args.val, "test": args.test}
    splits = [
        read_labelled_files(name, source, args.modality, args.label_column, args.data_root, errors)
        for name, source in sources.items()
        if source
    ]
    check_splits(splits[0], splits[1:])  # before the work, and once more after it
    list_failed(errors.values())
    for split in splits[1:]:
        if seen := set(splits[0].paths) & set(split.paths):
            warning = f"{len(seen):,} files of {split.name} are in train too: its accuracy will be"
            print(f"{warning} too high.", file=sys.stderr)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    path = checkpoint.find(args.checkpoint)
    embedder = build_embedder(path, args, progress=False, projections=False)
    options = args.grid, args.epochs, args.seed, args.folds
    records, panels = [], []
    with ExitStack() as stack:
        cache = args.cache or stack.enter_context(TemporaryDirectory())
        for kind in dict.fromkeys(args.kind):
            feature: Any = "tokens" if kind == "attentive" else args.features
            probed = probe_files(embedder, args.modality, kind, splits, cache, feature, *options)
            list_failed(reason for path, reason in probed.errors.items() if path not in errors)
            errors |= probed.errors
            facts = {"checkpoint": str(path), "modality": args.modality, "kind": kind}
            facts |= {"features": probed.feature, "seed": args.seed, "setting": KINDS[kind].setting}
            for trial in probed.trials:
                records.append(facts | to_row(trial, probed.items, probed.classes))
                if trial.chosen and not args.folds:
                    name, best = list(trial.evaluations.items())[-1]
                    title = f"{kind}, {facts['setting']} {trial.setting:g}"
                    panels.append((f"{title}: {best.top1:.1%} of {name}", best))
            if args.folds:
                of_folds = [trial.evaluations["fold"] for trial in probed.trials]
                accuracies = [100 * evaluation.top1 for evaluation in of_folds]
                result = (
                    f"{mean(accuracies):.1f} ± {stdev(accuracies):.1f} % over {args.folds} folds"
                )
                panels.append((f"{kind}: {result}", pool(of_folds)))
    apis.write_table(args.out, list(records[0]), (list(record.values()) for record in records))
    shown = [name for name in records[0] if name not in ("checkpoint", "modality", "seed")]
    rows = [[record[name] for name in shown] for record in records]
    print(table(shown, rows, "lllrll".ljust(len(shown), "r")))
    print(f"the results are in {printable(str(args.out))}")
    if args.folds:
        print("\n".join(title for title, _ in panels))
    if args.plot:
        visualization.draw_confusions(args.plot, panels, probed.classes)
        print(f"the confusions are drawn in {printable(str(args.plot))}")
    if errors:
        print(f"{len(errors):,} files or folders could not be read and were left out.")


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
