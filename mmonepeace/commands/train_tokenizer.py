"""Train a byte-level BPE on captions.

Run:  mmonepeace train-tokenizer captions.txt tokenizer.json --vocab-size 8000
      mmonepeace train-tokenizer train.tsv sounds.tsv:label tokenizer.json --vocab-size 8000

CAPTIONS is a text file with one caption per line, or a table (.tsv, .csv, .jsonl) with a column of them.
List all texts that the model will read, in every stage: words that are not in the vocabulary are
split into small pieces, and the second stage does not train their embeddings.
"""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mmonepeace import datasets
from mmonepeace.commands.options import add_option
from mmonepeace.datasets.manifest import TABLES, read_lines, read_manifest
from mmonepeace.exit_status import exit_status


def read_captions(source: str, column: str) -> Iterator[str]:
    """The captions of FILE, or of FILE:COLUMN."""
    if not Path(source).is_file():
        source, _, column = source.rpartition(":") if ":" in source else (source, "", column)
    if Path(source).suffix.lower() not in TABLES:
        return read_lines(source)
    return (row["text"] for row in read_manifest(source, {"text": column}))


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("captions", metavar="CAPTIONS", nargs="+", help="FILE or FILE:COLUMN")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--vocab-size", type=int, required=True)
    help = "of FILEs given without one (default: %(default)s)"
    add_option(parser, "--text-column", "--column", default="caption", help=help)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Train."""
    captions = chain.from_iterable(read_captions(c, args.text_column) for c in args.captions)
    tokenizer = datasets.tokenizer.train(captions, args.vocab_size)
    tokenizer.save(args.out)
    print(f"{args.out}: {tokenizer.vocab_size} ids.")


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()), ValueError, OSError)
