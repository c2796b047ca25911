"""Convert the official vocabulary files to one tokenizer.json.

Run:  mmonepeace convert-tokenizer --dict dict.txt --bpe vocab.bpe --encoder encoder.json OUT
"""

import argparse
from pathlib import Path

from mmonepeace import datasets
from mmonepeace.exit_status import exit_status


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dict", required=True, type=Path, help="the official numbering")
    parser.add_argument("--bpe", required=True, type=Path, help="GPT-2's merges")
    parser.add_argument("--encoder", required=True, type=Path, help="GPT-2's token to id")
    parser.add_argument("out", metavar="OUT", type=Path)
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Convert."""
    missing = [str(p) for p in (args.dict, args.bpe, args.encoder) if not p.is_file()]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: no such file. Get all three with "
            "mmonepeace download dict.txt vocab.bpe encoder.json --out FOLDER"
        )
    tokenizer = datasets.tokenizer.build_official(args.dict, args.bpe, args.encoder)
    tokenizer.save(args.out)
    print(f"{args.out}: {tokenizer.vocab_size} ids.")


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()), ValueError, OSError)
