"""Search an index of mmonepeace embed by texts, images and audio clips, or by all of them at once.

Run:  mmonepeace search index.safetensors --text "a dog in the snow" --html found.html
      mmonepeace search index.safetensors --image beach.jpg --audio rain.ogg --in image
      mmonepeace search index.safetensors --image me.jpg --text glasses --weights 1 -0.5

The query is the weighted sum of the embeddings of all parts. Weights have the order of the parts on
the command line; a negative one steers away from its part.
"""

import argparse
import os
from pathlib import Path

from mmonepeace import apis, checkpoint
from mmonepeace.commands.options import (
    QUERY,
    add_option,
    add_query_options,
    device,
    exit_code,
    make_parser,
    positive,
)
from mmonepeace.console import printable, table


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("index", type=Path, metavar="INDEX")
    add_query_options(parser)
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="one for each part")
    parser.add_argument("--in", dest="modality", choices=QUERY, help="find these only")
    add_option(parser, "--top-k", "--k", type=positive, default=5, help="number of results")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a page with the results")
    parser.add_argument("--checkpoint", metavar="CKPT", help="instead of the recorded one")
    parser.add_argument("--tokenizer", type=Path, help="instead of the recorded one")
    parser.add_argument("--device", type=device, help="default: a GPU if there is one")
    args = parser.parse_args()
    if not args.parts:
        parser.error("name what to search for: --text, --image, --audio")
    args.weights = args.weights or [1.0] * len(args.parts)
    if len(args.weights) != len(args.parts):
        parser.error(f"{len(args.weights)} weights for {len(args.parts)} parts of the query")
    return args


def short(content: str | Path) -> str:
    """A text, or the shorter path of a file: from here or from the root."""
    if isinstance(content, str):
        return content
    return min(os.path.normpath(content), os.path.relpath(content), key=len)


def run(args: argparse.Namespace) -> None:
    """Search, print, and write the page."""
    import numpy as np

    from mmonepeace.visualization.gallery import Entry

    index = apis.EmbeddingIndex.load(args.index)
    shown = index.select(args.modality) if args.modality else index
    if not shown.items:
        raise ValueError(f"{args.index} has no {args.modality} items.")
    path = checkpoint.find(args.checkpoint) if args.checkpoint else None
    embedder = apis.embedder_of(index, path, args.tokenizer, args.device)
    parts = [embedder.encode(modality, [value])[0] for modality, value in args.parts]
    query = np.asarray(apis.combine(*parts, weights=args.weights))
    best = shown.search(query, args.top_k)
    results = [Entry(score, item["modality"], shown.content(item)) for score, item in best]
    rows = [(i, f"{e.number:.4f}", e.modality, short(e.content)) for i, e in enumerate(results, 1)]
    print(table(("rank", "cosine", "in", "what"), rows, "rr"))
    if args.html:
        query = [Entry(w, *part) for w, part in zip(args.weights, args.parts, strict=True)]
        source = Path(path or index.meta["checkpoint"])
        facts = {
            "Checkpoint": f"{source.parent.name}/{source.name}",
            "Index": f"{args.index.name}, {len(shown.items):,} items",
            "k": str(args.top_k),
        }
        apis.write_gallery(args.html, query, results, facts)
        print(f"the results are drawn in {printable(str(args.html))}")


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
