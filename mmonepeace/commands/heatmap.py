"""Draw where an image is similar to a text, an audio clip or another image.

Run:  mmonepeace heatmap CKPT street.jpg --text sky --text "a red car" --out heatmap.png
      mmonepeace heatmap CKPT farm.jpg --audio rooster.ogg --image-size 512

A panel shows the cosine of a query with each patch of the image; all panels have one colour scale.
"""

import argparse
from pathlib import Path

from mmonepeace import checkpoint, visualization
from mmonepeace.commands.options import (
    add_model_options,
    add_query_options,
    build_embedder,
    exit_code,
    make_parser,
)
from mmonepeace.console import printable, table


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("image", metavar="IMAGE", type=Path)
    add_query_options(parser)
    parser.add_argument("--out", type=Path, default=Path("heatmap.png"))
    args = parser.parse_args()
    if not args.parts:
        parser.error("name what to look for: --text, --audio, --image")
    return args


def run(args: argparse.Namespace) -> None:
    """Draw, and print where each query is strongest."""
    import numpy as np

    embedder = build_embedder(checkpoint.find(args.checkpoint), args)
    queries = [embedder.encode(modality, [value])[0] for modality, value in args.parts]
    maps = np.asarray(embedder.heat_maps(args.image, np.stack(queries)))
    names = [value if modality == "text" else Path(value).name for modality, value in args.parts]
    visualization.draw_heat_maps(args.out, args.image, maps, names)
    rows = [
        (name, f"{low:.3f}", f"{high:.3f}", f"x {x}, y {y}")
        for name, (low, high, x, y) in zip(names, visualization.extremes(maps), strict=True)
    ]
    print(table(("query", "lowest", "highest", "at pixel"), rows, "lrrl"))
    print(f"the maps are drawn in {printable(str(args.out))}")


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
