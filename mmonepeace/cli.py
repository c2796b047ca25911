"""What the command lines of embedding tools share: options of the model, errors."""

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from mmonepeace.apis.embedder import DTYPES, Embedder
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.console import printable


def add_model_options(parser: ArgumentParser) -> None:
    """Options that tell how to build an `Embedder`."""
    parser.add_argument("checkpoint", metavar="CKPT", help="file, or work directory with one")
    parser.add_argument("--tokenizer", type=Path, help="default: tokenizer.json beside CKPT")
    parser.add_argument("--device", type=device, help="default: a GPU if there is one")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--image-size", type=positive, help="pixels; default: the model's own")
    parser.add_argument("--keep-ratio", action="store_true", help="do not squash to a square")
    parser.add_argument(
        "--fast-jpeg", action="store_true", help="decode large JPEG files at a part of their size"
    )


QUERY = {"text": "TEXT", "image": "FILE", "audio": "FILE"}


def add_query_options(parser: ArgumentParser) -> None:
    """--text, --image and --audio, which may be repeated: `parts`, (modality, value) in order."""
    for modality, metavar in QUERY.items():
        parser.add_argument(
            f"--{modality}",
            dest="parts",
            action="append",
            metavar=metavar,
            # One list for all of them keeps the order of the command line.
            type=lambda value, modality=modality: (modality, value),
            help="part of the query; may be repeated",
        )


def build_embedder(path: str | Path, args: Namespace, **options: Any) -> Embedder:
    """The embedder that `add_model_options` describe, of a checkpoint file."""
    return Embedder.from_checkpoint(
        path,
        tokenizer=args.tokenizer,
        device=args.device,
        dtype=args.dtype,
        batch_size=args.batch_size,
        image_size=args.image_size,
        keep_ratio=args.keep_ratio,
        fast_jpeg=args.fast_jpeg,
        **options,
    )


def device(text: str) -> str:
    """A device that is here."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentTypeError(f"{text} cannot be used: {str(error).splitlines()[0]}") from None
    return text


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def exit_code(run: Callable[[], None], *expected: type[Exception]) -> int:
    """Run a tool: 0, or 2 after a line about what the user can mend.

    Args:
        run: the tool.
        expected: such errors, beside those of checkpoints, values and files.
    """
    try:
        run()
        sys.stdout.flush()
    except torch.OutOfMemoryError as error:
        reason = str(error).split(".")[0]
        print(f"error: {reason}. Try a smaller --batch-size or --dtype bf16.", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CheckpointError, ValueError, OSError, *expected) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def list_failed(reasons: Iterable[str]) -> None:
    """Say what was left out and why."""
    for reason in reasons:
        print(f"left out: {printable(reason)}", file=sys.stderr)
