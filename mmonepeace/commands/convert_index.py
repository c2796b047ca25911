"""Write an index of mmonepeace embed as a file for other programs, such as a vector database.

Run:  mmonepeace convert-index index.safetensors index.parquet

The suffix decides. A row of .parquet (which needs pyarrow) and .csv has `modality`, `path` (of files,
relative to the table) or `text`, and `embedding`, a list of floats. With .npy come the embeddings as
an array, and the items as OUT.json. The memory does not grow with the index.
"""

import argparse
from pathlib import Path

from mmonepeace import apis
from mmonepeace.commands.options import exit_code, make_parser
from mmonepeace.console import printable


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument("out", type=Path, metavar="OUT", help="a .parquet, .csv or .npy")
    args = parser.parse_args()
    if args.out.suffix not in (".parquet", ".csv", ".npy"):
        parser.error(f"{args.out}: expected a file that ends with .parquet, .csv or .npy")
    return args


def run(args: argparse.Namespace) -> None:
    """Convert."""
    index = apis.EmbeddingIndex.load(args.index)
    apis.export_index(index, args.out)
    print(f"{printable(str(args.out))}: {len(index.items):,} items.")


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()))
