"""What the command lines of embedding tools share: options of the model, and tables."""

import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmonepeace.apis.embedder import DTYPES, Embedder


def add_model_options(parser: ArgumentParser) -> None:
    """Options that tell how to build an `Embedder`."""
    parser.add_argument("--tokenizer", type=Path, help="default: tokenizer.json beside CKPT")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--image-size", type=positive, help="pixels; default: the model's own")
    parser.add_argument("--keep-ratio", action="store_true", help="do not squash to a square")


def build_embedder(path: str, args: Namespace, **options: Any) -> Embedder:
    """The embedder that the options describe."""
    return Embedder.from_checkpoint(
        path,
        args.tokenizer,
        device=check_device(args.device),
        dtype=args.dtype,
        batch_size=args.batch_size,
        image_size=args.image_size,
        keep_ratio=args.keep_ratio,
        **options,
    )


def check_device(device: str | None) -> str | None:
    """The device, if it is here.

    Raises:
        ValueError: if it is not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {device} cannot be used: {reason}") from None
    return device


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is below 1")
    return number


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: str = "") -> str:
    """A text table without lines.

    Args:
        header: names of the columns.
        rows: cells.
        numbers: one letter for each column that is aligned another way, as `r` in "r l".
    """
    from prettytable import PrettyTable

    drawn = PrettyTable(list(header), border=False, preserve_internal_border=False)
    drawn.left_padding_width, drawn.right_padding_width = 0, 2
    drawn.align = "l"
    for name, side in zip(header, numbers.split(), strict=False):
        drawn.align[name] = side
    if sys.stdout.isatty():
        drawn.max_table_width = shutil.get_terminal_size().columns
    for row in rows:
        drawn.add_row([printable(str(cell)) for cell in row])
    return "\n".join(line.rstrip() for line in drawn.get_string().splitlines())


def printable(text: str) -> str:
    """Text for a terminal: file names may hold bytes that are no characters, and control codes."""
    clean = text.encode(errors="replace").decode()
    return "".join(c if c.isprintable() else " " for c in clean)
