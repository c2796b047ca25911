"""What command lines share: options of recipes and of embeddings, queries, errors."""

from __future__ import annotations

import sys
from argparse import (
    SUPPRESS,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mmonepeace import apis, checks
from mmonepeace.choices import Dtype
from mmonepeace.console import printable
from mmonepeace.exit_status import UserError, exit_status, process_of_run

if TYPE_CHECKING:
    from mmonepeace.apis import Embedder


def make_parser(description: str | None) -> ArgumentParser:
    """A parser whose help shows the description as it is written."""
    return ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)


def add_option(parser: Any, name: str, *former: str, **how: Any) -> None:
    """Add an option; its former names stay, but help does not show them."""
    action = parser.add_argument(name, **how)
    for old in former:
        hidden = how | {"dest": action.dest, "help": SUPPRESS, "default": SUPPRESS}
        parser.add_argument(old, **hidden)


def add_recipe_options(parser: ArgumentParser) -> None:
    """Add what `set_data` and `apply_overrides` take, and the recipe itself."""
    parser.add_argument("config")
    parser.add_argument("--data-root", help="folder of the data sets, instead of the config's")
    parser.add_argument("--tokenizer", metavar="JSON", help="instead of the config's")
    parser.add_argument(
        "--cfg-options", nargs="+", action=checks.OverridesAction, help="KEY=VALUE ..."
    )


def add_process_options(parser: ArgumentParser) -> None:
    """Add what launchers give, and where the logs go, see `set_process`."""
    parser.add_argument("--work-dir", help="logs and checkpoints (work_dirs/CONFIG)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def add_training_options(parser: ArgumentParser, *dtypes: str) -> None:
    """Add what training of all kinds takes."""
    add_recipe_options(parser)
    parser.add_argument(
        "--resume", nargs="?", const="auto", help="resume from PATH, or from the newest checkpoint"
    )
    parser.add_argument("--compile", action="store_true", help="compile blocks, for GPUs")
    add_precision_option(parser, *dtypes)
    help = "check all, try some steps, keep nothing"
    parser.add_argument("--dry-run", action="store_true", help=help)
    add_process_options(parser)


def add_strategy_options(parser: ArgumentParser) -> None:
    """Add how several processes share the model that is trained, see `set_strategy`."""
    help = "with several processes: replicate or shard the model"
    parser.add_argument("--strategy", choices=["ddp", "fsdp2"], help=help)
    parser.add_argument("--sharded", action="store_true", help="sharded checkpoints (fsdp2)")


def add_precision_option(parser: ArgumentParser, *dtypes: str) -> None:
    """Add --dtype for mixed precision: `dtype`, None for what the recipe says."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--dtype", choices=dtypes, help="mixed precision; fp16 needs a GPU")
    former: dict[str, Any] = dict(action="store_const", dest="dtype", help=SUPPRESS)
    for old, dtype in (("--bf16", "bf16"), ("--amp", "fp16")):
        if dtype in dtypes:
            group.add_argument(old, const=dtype, **former)


def add_model_options(parser: ArgumentParser) -> None:
    """Add the options of `build_embedder`."""
    parser.add_argument("checkpoint", metavar="CKPT", help="file, or work directory with one")
    parser.add_argument("--tokenizer", type=Path, help="default: tokenizer.json beside CKPT")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="LoRA to merge into CKPT")
    parser.add_argument("--device", type=device, help="default: a GPU if there is one")
    parser.add_argument("--dtype", default="fp32", choices=get_args(Dtype))
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--compile", action="store_true", help="compile blocks, for GPUs")
    parser.add_argument("--image-size", type=positive, help="pixels; default: the model's own")
    parser.add_argument("--keep-ratio", action="store_true", help="keep the aspect ratio")
    help = "what becomes of transparency: drop, as in training, or a colour that is put behind it"
    parser.add_argument("--alpha", default="drop", metavar="COLOUR", help=help)
    help = "decode large JPEG files at reduced size"
    parser.add_argument("--fast-jpeg", action="store_true", help=help)


QUERY = {"text": "TEXT", "image": "FILE", "audio": "FILE"}


def add_query_options(parser: ArgumentParser) -> None:
    """Add --text, --image and --audio, which may be repeated: `parts`, (modality, value) in order."""
    # One list for all of them keeps the order of the command line.
    help = "part of the query; may be repeated"
    shared: dict[str, Any] = dict(dest="parts", action="append", help=help)
    for modality, metavar in QUERY.items():
        pair = partial(lambda modality, value: (modality, value), modality)
        parser.add_argument(f"--{modality}", metavar=metavar, type=pair, **shared)


def build_embedder(path: str | Path, args: Namespace, **options: Any) -> Embedder:
    """Build the embedder of a checkpoint file with the options of `add_model_options`."""
    names = ["tokenizer", "adapter", "device", "dtype", "batch_size"]
    names += ["image_size", "keep_ratio", "fast_jpeg", "alpha"]
    options |= {name: getattr(args, name) for name in names} | {"compiled": args.compile}
    if options["device"] is None:
        import torch

        if (gpus := torch.cuda.device_count()) > 1:
            options["device"] = f"cuda:{process_of_run().local_rank % gpus}"
    return apis.Embedder.from_checkpoint(path, **options)


def device(text: str) -> str:
    """Parse a device that this machine has."""
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentTypeError(f"{text} cannot be used: {str(error).splitlines()[0]}") from None
    return text


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def exit_code(run: Callable[[], None], **options: Any) -> int:
    """Run a tool to its exit status, see `exit_status`; any wrong value or file is the user's."""

    def explained() -> None:
        try:
            run()
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # of torch, which may not be imported
                raise
            reason = str(error).split(".")[0]
            raise UserError(f"{reason}. Try a smaller --batch-size or --dtype bf16.") from None

    return exit_status(explained, ValueError, OSError, **options)


def list_failed(reasons: Iterable[str]) -> None:
    """Print what was left out and why."""
    for reason in reasons:
        print(f"left out: {printable(reason)}", file=sys.stderr)
