"""Classify images or audio clips by class names alone; measure accuracy on a table, or mIoU on label maps.

Run:  mmonepeace zero-shot CKPT --images DIR --classes cat,dog,bird
      mmonepeace zero-shot CKPT --audios a.ogg b.ogg --classes-file names.txt --top-k 5
      mmonepeace zero-shot CKPT --table val.tsv --path-column image --label-column group
      mmonepeace zero-shot CKPT --dense --images DIR --labels DIR --classes "sky,car;bus" --values

Paths of the table are relative to --data-root, by default the table's folder; its labels are the classes
unless some are named. With --dense, each pixel gets a class: label maps are PNG files of the names of their
images, with classes from 0, and 255 where nothing counts; a class may have several names (car;bus).
"""

from argparse import ArgumentParser, Namespace
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

# Options that only --dense has; from the third on they are those of `ZeroShotSegmentor`.
DENSE = ("labels", "reduce_zero_label", "values", "short_side", "window", "stride")


def parse_args() -> Namespace:
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
    parser.add_argument(
        "--out", type=Path, metavar="TSV", help="write what is predicted, or measured"
    )
    add_dense_options(parser)
    args = parser.parse_args()
    if not (args.table or args.classes or args.classes_file):
        parser.error("name the classes: --classes or --classes-file")
    if args.dense and not (args.labels and len(args.images or ()) == 1):
        parser.error("--dense needs one folder of images and one of label maps: --images, --labels")
    given = [f"--{name.replace('_', '-')}" for name in DENSE if getattr(args, name)]
    if given and not args.dense:
        parser.error(f"only with --dense: {', '.join(given)}")
    return args


def add_dense_options(parser: ArgumentParser) -> None:
    """Add what `run_dense` takes."""
    group = parser.add_argument_group("a class for each pixel")
    group.add_argument("--dense", action="store_true", help="segment --images, measure mIoU")
    group.add_argument("--labels", type=Path, metavar="DIR", help="label maps of the images")
    help = "label 0 is ignored, and 1 the first class"
    group.add_argument("--reduce-zero-label", action="store_true", help=help)
    help = "in the last block, patches keep their own value instead of what they attend to"
    group.add_argument("--values", action="store_true", help=help)
    help = "size of the images as they are encoded; default: about --image-size squared pixels"
    group.add_argument("--short-side", type=positive, metavar="PIXELS", help=help)
    help = "side of a square that slides over larger images; default: they are encoded whole"
    group.add_argument("--window", type=positive, metavar="PIXELS", help=help)
    help = "of the window; default: half of it"
    group.add_argument("--stride", type=positive, metavar="PIXELS", help=help)


def read_classes(args: Namespace) -> list[str]:
    """The classes that the command line names."""
    if args.classes_file:
        return apis.read_texts(args.classes_file)
    return [name.strip() for name in args.classes.split(",")] if args.classes else []


def run_dense(args: Namespace) -> None:
    """Segment, and measure mIoU beside its chance levels and the baseline of CLS."""
    from mmonepeace.datasets.label_maps import find_label_maps

    unread: dict[str, str] = {}
    errors: dict[int, str] = {}
    names = [tuple(map(str.strip, name.split(";"))) for name in read_classes(args)]
    (folder,) = args.images
    images = apis.find_files(folder, "image", unread)
    label_maps = find_label_maps(images, args.labels, folder)
    options = {name: getattr(args, name) for name in DENSE[2:]}
    embedder = build_embedder(checkpoint.find(args.checkpoint), args)
    segmentor = apis.ZeroShotSegmentor(embedder, names, args.template, **options)
    result = segmentor.evaluate(images, label_maps, args.reduce_zero_label, errors)
    print(f"{result.images:,} images, {len(names):,} classes")
    print(result.report())
    if args.out:
        result.write(args.out, {"checkpoint": str(args.checkpoint), **options})
        print(f"\nthe IoUs are in {printable(str(args.out))}")
    list_failed([*unread.values(), *errors.values()])


def run(args: Namespace) -> None:
    """Classify, then list predictions or measure accuracy."""
    import numpy as np

    if args.dense:
        return run_dense(args)

    unread: dict[str, str] = {}
    labels: list[str] | None = None
    modality: Any
    if args.table:
        columns = args.path_column, args.label_column
        modality, paths, labels = apis.read_table(args.table, *columns, args.data_root)
    else:
        modality = "image" if args.images else "audio"
        paths = list_files(args.images or args.audios, modality, unread)
    names = read_classes(args) or sorted(set(labels or ()))
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
