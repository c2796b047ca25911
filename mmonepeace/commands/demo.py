"""Try models in a browser: search, segment, heat maps, classes, answers, phrases.

Run:  mmonepeace demo
      mmonepeace demo --checkpoint work_dirs/demo work_dirs/ground_demo/phrases
      mmonepeace demo --index index.safetensors --port 8000

Each model becomes the tabs that it can do. Without one, those of the demos (`make demo` and others) are
shown. The page is for this machine alone, and needs no network.
"""

import argparse
from pathlib import Path

from mmonepeace.commands.options import device, exit_code, make_parser, positive


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    help = "files, or folders with one; default: those of the demos"
    parser.add_argument("--checkpoint", nargs="+", metavar="CKPT", default=[], help=help)
    parser.add_argument("--index", type=Path, help="made by mmonepeace embed, to search")
    parser.add_argument("--port", type=port, default=7860, help="default: 7860; 0 takes any")
    help = "recipe of segmentors without one beside them"
    parser.add_argument("--config", help=help)
    help = "of checkpoints without tokenizer.json beside them"
    parser.add_argument("--tokenizer", type=Path, help=help)
    parser.add_argument("--device", type=device, help="default: a GPU if there is one")
    help = "limit of a request (20)"
    parser.add_argument("--max-upload-mb", type=positive, default=20, metavar="MB", help=help)
    return parser.parse_args()


def port(text: str) -> int:
    """Parse a port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> None:
    """Open the models, and serve."""
    from mmonepeace.console import printable
    from mmonepeace.page import Page, missing_demos, open_models, serve

    abilities = open_models(args.checkpoint, args.index, args.config, args.tokenizer, args.device)
    for ability in abilities:
        print(printable(f"{ability.title}: {ability.label}"))
    if not args.checkpoint and args.index is None:
        print("".join(f"{line}\n" for line in missing_demos()), end="")
    serve(
        Page(abilities, args.max_upload_mb),
        args.port,
        lambda address: print(f"the page is at {address} (Ctrl-C ends it)", flush=True),
    )


def main() -> int:
    """Run to the exit status."""
    return exit_code(lambda: run(parse_args()), interrupted="the page is closed.")
