"""Measure retrieval on a table whose rows hold texts, images and audio files that belong together.

Run:  mmonepeace evaluate-retrieval CKPT --table val.tsv --columns image=image text=caption
      mmonepeace evaluate-retrieval CKPT --table photos.tsv --columns image=image text=caption \\
          --table sounds.tsv --columns audio=audio text=label --out metrics.json \\
          --gallery gallery.png --directions text_to_image audio_to_text

Images and audio files are paths, relative to --data-root, by default the table's folder. A cell may be
empty: the row then lacks that modality. Rows of several tables are measured together. Recall is in
per cent, beside its chance level.

By --rule distinct, equal texts, or the same file, are one item, which matches whatever any row pairs
it with. By --rule official, as in published results, the caption of each row is a query, and matches
only the image or audio clip of its row.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mmonepeace import apis, checkpoint, evaluation, visualization
from mmonepeace.atomic_file import atomic_file
from mmonepeace.choices import Rule
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

if TYPE_CHECKING:
    from mmonepeace.apis import Embedder
    from mmonepeace.evaluation.retrieval import Item


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    each: dict[str, Any] = dict(action="append", required=True)
    parser.add_argument(
        "--table", type=Path, help="a .tsv, .csv or .jsonl; may be repeated", **each
    )
    columns: dict[str, Any] = dict(nargs="+", metavar="MODALITY=COLUMN", **each)
    parser.add_argument("--columns", help="such as image=image text=caption; per table", **columns)
    add_option(parser, "--data-root", "--root", type=Path, help="of the tables' paths")
    parser.add_argument("--k", type=positive, nargs="+", default=[1, 5, 10], metavar="K")
    parser.add_argument(
        "--rule", choices=get_args(Rule), default="distinct", help="what is a query; see above"
    )
    parser.add_argument("--raw-texts", action="store_true", help="without the clean-up of captions")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the metrics")
    parser.add_argument("--gallery", type=Path, metavar="PNG", help="draw some queries")
    parser.add_argument("--directions", nargs="+", metavar="A_to_B", help="to draw; default: all")
    parser.add_argument("--queries", type=positive, default=6, help="drawn for each direction")
    parser.add_argument("--results", type=positive, default=5, help="drawn for each query")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of queries")
    args = parser.parse_args()
    named = [dict(column.partition("=")[::2] for column in columns) for columns in args.columns]
    for columns, given in zip(named, args.columns, strict=True):
        if not all(columns.values()) or len(columns) < max(2, len(given)):
            parser.error("--columns takes two or more of MODALITY=COLUMN, such as text=caption")
    if len(named) != len(args.table):
        parser.error(f"{len(args.table)} tables, but columns of {len(named)}: name those of each")
    args.columns = named
    return args


def embed(
    embedder: "Embedder", modality: str, values: list[str], raw: bool, errors: dict[str, str]
) -> dict[str, "Item"]:
    """Value -> item, for distinct values that can be read."""
    import numpy as np
    import torch

    from mmonepeace.datasets.tokenizer import clean_caption

    failed: dict[int, str] = {}
    inputs = [clean_caption(v) for v in values] if modality == "text" and not raw else values
    embeddings = np.asarray(embedder.encode(modality, inputs, failed))
    if len(failed) == len(values):
        raise ValueError(f"none of {len(values)} {modality} items can be read: {failed[0]}")
    errors |= {values[i]: reason for i, reason in failed.items()}
    return {
        v: (v, torch.from_numpy(embeddings[i])) for i, v in enumerate(values) if i not in failed
    }


def run(args: argparse.Namespace) -> None:
    """Embed, measure, draw."""
    import numpy as np
    from PIL import Image

    errors: dict[str, str] = {}
    known: dict[str, Any] = {}
    tables = zip(args.table, args.columns, strict=True)
    rows = [
        row for path, columns in tables for row in apis.read_rows(path, columns, args.data_root)
    ]
    path = checkpoint.find(args.checkpoint)
    embedder = build_embedder(path, args)
    for name in dict.fromkeys(name for row in rows for name in row):
        values = list(dict.fromkeys(row[name] for row in rows if name in row))
        known[name] = embed(embedder, name, values, args.raw_texts, errors)
    samples = [{n: known[n][v] for n, v in row.items() if v in known[n]} for row in rows]
    directions = evaluation.find_directions(samples, args.rule)
    if not directions:
        raise ValueError(
            f"{', '.join(map(str, args.table))}: no row has two items that can be read."
        )
    header = ["direction", "queries", "items"]
    header += [name for k in args.k for name in (f"R@{k}", f"chance@{k}")]
    lines, sizes = [], {}
    for (a, b), d in directions.items():
        sizes[f"{a}_to_{b}"] = dict(queries=len(d.queries), items=len(d.items))
        recalls = (f"{x:.2f}" for k in args.k for x in (d.recall(k), d.chance(k)))
        lines.append((f"{a} to {b}", f"{len(d.queries):,}", f"{len(d.items):,}", *recalls))
    print(table(header, lines, "l".ljust(len(header), "r")))
    metrics = evaluation.summarise(directions, args.k)
    means = [f"R@{k} {metrics[f'mean_R@{k}']:.2f}" for k in args.k]
    print("mean  " + ", ".join([*means, f"all {metrics['r_mean']:.2f}"]))
    if args.out:
        facts = {
            "checkpoint": str(path),
            "tables": [str(path) for path in args.table],
            "rule": args.rule,
            "left_out": len(errors),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**facts, "sizes": sizes, "metrics": metrics}, indent=2)
        with atomic_file(args.out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        print(f"the metrics are in {printable(str(args.out))}")
    if args.gallery:
        wanted = args.directions or [f"{a}_to_{b}" for a, b in directions]
        options = args.queries, args.results, args.seed
        drawn = [
            visualization.draw_direction(directions, tuple(w.split("_to_")), *options)
            for w in wanted
        ]
        args.gallery.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.gallery) as temporary:
            kind = Image.registered_extensions().get(args.gallery.suffix.lower(), "PNG")
            Image.fromarray(np.concatenate(drawn)).save(temporary, kind)
        print(f"{len(drawn)} directions are drawn in {printable(str(args.gallery))}")
    list_failed(errors.values())


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
