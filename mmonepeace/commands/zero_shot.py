"""Classify images or audio clips by class names alone, or measure accuracy on a table of labels.

Run:  mmonepeace zero-shot CKPT --images DIR --classes cat,dog,bird
      mmonepeace zero-shot CKPT --audios a.ogg b.ogg --classes-file names.txt --top-k 5
      mmonepeace zero-shot CKPT --table val.tsv --path-column image --label-column group

Paths of the table are relative to --data-root, by default the table's folder; its labels are the classes
unless some are named.
"""

import argparse
from pathlib import Path
from typing import Any

from mmonepeace import apis, checkpoint
from mmonepeace.apis.sources import list_files
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


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", nargs="+", type=Path, metavar="PATH", help="files, folders")
    source.add_argument("--audios", nargs="+", type=Path, metavar="PATH", help="files, folders")
    help = "of paths and labels, instead of these"
    add_option(source, "--table", "--tsv", type=Path, metavar="TABLE", help=help)
    parser.add_argument("--path-column", default="image")
    parser.add_argument("--label-column", default="label")
    add_option(parser, "--data-root", "--root", type=Path, help="of the table's paths")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--classes", metavar="A,B,C")
    names.add_argument("--classes-file", type=Path, metavar="FILE", help="a name per line")
    parser.add_argument("--template", action="append", help="'a photo of a {}'; may be repeated")
    parser.add_argument("--top-k", type=positive, default=3, help="classes shown for each item")
    parser.add_argument("--out", type=Path, metavar="TSV", help="write all predictions")
    args = parser.parse_args()
    if not (args.table or args.classes or args.classes_file):
        parser.error("name the classes: --classes or --classes-file")
    return args


def run(args: argparse.Namespace) -> None:
    """Classify, then list predictions or measure accuracy."""
    import numpy as np

    unread: dict[str, str] = {}
    labels: list[str] | None = None
    modality: Any
    if args.table:
        columns = args.path_column, args.label_column
        modality, paths, labels = apis.read_table(args.table, *columns, args.data_root)
    else:
        modality = "image" if args.images else "audio"
        paths = list_files(args.images or args.audios, modality, unread)
    names = apis.read_texts(args.classes_file) if args.classes_file else sorted(set(labels or ()))
    names = [name.strip() for name in args.classes.split(",")] if args.classes else names
    embedder = build_embedder(checkpoint.find(args.checkpoint), args)
    classifier = apis.ZeroShotClassifier(embedder, names, modality, args.template)
    errors: dict[int, str] = {}
    probabilities = classifier.predict(paths, errors)
    good = [i for i in range(len(paths)) if i not in errors]
    if not good:
        raise ValueError(f"none of {len(paths)} items can be read; the first: {errors[0]}")
    best = np.argsort(-probabilities[good], axis=1, kind="stable")[:, : args.top_k]
    header = [modality, *(["label"] if labels else [])]
    header += [f"{name}{r}" for r in range(1, best.shape[1] + 1) for name in ("class", "p")]
    rows = [
        [str(paths[i]), *([labels[i]] if labels else [])]
        + [cell for c in ranked for cell in (names[c], f"{probabilities[i, c]:.3f}")]
        for i, ranked in zip(good, best, strict=True)
    ]
    if labels:
        print(f"{len(good):,} items, {len(names):,} classes")
        print(apis.evaluate(probabilities[good], [labels[i] for i in good], names).report())
    else:
        print(table(header, rows))
    if args.out:
        apis.write_table(args.out, header, rows)
        print(f"\n{len(rows):,} predictions are in {printable(str(args.out))}")
    list_failed([*unread.values(), *errors.values()])


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
