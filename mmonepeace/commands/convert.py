"""Convert a checkpoint between the official layouts and ours.

Run:  mmonepeace convert one-peace.pt onepeace.safetensors --to full
      mmonepeace convert one-peace.pt onepeace.safetensors --to full --shard-size 5GB
      mmonepeace convert one-peace.pt onepeace-vision.safetensors --to vision
      mmonepeace convert onepeace.safetensors back.pt --to official-full
      mmonepeace convert onepeace-vision.safetensors back.pkl --to official-vision
      mmonepeace convert onepeace_seg_cocostuff2ade20k.pth segmentor.pth --to model
      mmonepeace convert segmentor.pth back.pth --to official-model
      mmonepeace convert work_dirs/lora adapter --to adapter
      mmonepeace convert onepeace.safetensors merged.safetensors --to full --adapter adapter

IN is the official full file or a fine-tuned one (.pt), the official vision branch (.pkl), an
official segmentation, detection or classification file (.pth), or one of ours, also in shards, or a
work directory, of which the newest checkpoint is taken.
"model" is what mmseg, mmdet and mmpretrain load, including heads. OUT ends with .safetensors, .pth
or .pt; the official vision layout may also be a .pkl. LoRA of IN is merged, in float32, but for "adapter",
which writes it alone into the folder OUT, in the layout of peft. No code in IN is ever run, and only one tensor
is in memory at a time.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import get_args

from mmonepeace import checkpoint
from mmonepeace.choices import Target
from mmonepeace.exit_status import exit_status

UNITS = {"MB": 10**6, "GB": 10**9}


def size(text: str) -> int:
    """Bytes of a size such as 5GB or 500MB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(MB|GB)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 5GB or 500MB")
    return int(float(match[1]) * UNITS[match[2]])


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--to", required=True, choices=get_args(Target))
    parser.add_argument("--shard-size", type=size, help="write shards of this size, such as 5GB")
    help = "merge the adapter of this folder into IN, and add the heads that were trained with it"
    parser.add_argument("--adapter", metavar="DIR", type=Path, help=help)
    parser.add_argument("--dry-run", action="store_true", help="print the keys, write nothing")
    args = parser.parse_args()
    if args.adapter and args.to == "adapter":
        parser.error("--to adapter writes an adapter, --adapter merges one: name one of them")
    return args


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    out = None if args.dry_run else args.out
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        converted = checkpoint.convert_file(
            args.source, out, args.to, args.shard_size,
            lambda done, total: bar.update(task, completed=done, total=total), args.adapter,
        )  # fmt: skip
    rows = [(key, name or "-", why) for key, name, why in converted.rows]
    if args.dry_run:
        print(checkpoint.key_table(("in the file", "becomes", "left out because"), rows))
    count = sum(v.numel() for v in converted.weights.values() if v.is_floating_point())
    left_out = sum(name is None for _, name, _ in converted.rows)
    print(
        f"{args.source} -> {out or '(nothing written)'}: "
        f"{len(converted.weights)} tensors, {count:,} parameters, {left_out} keys left out."
    )
    if names := checkpoint.non_finite(converted.weights):
        print(
            f"warning: {len(names)} tensors have NaN or infinite numbers, such as {names[0]}: "
            "no model loads them.",
            file=sys.stderr,
        )


def main() -> int:
    """Run to the exit status."""
    return exit_status(lambda: run(parse_args()), OSError)
