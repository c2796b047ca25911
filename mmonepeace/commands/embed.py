"""Embed folders of images and audio files and a file of texts into one index, for mmonepeace search.

Run:  mmonepeace embed CKPT --images DIR --out index.safetensors
      mmonepeace embed CKPT --images DIR --audios DIR --texts captions.tsv --out index.safetensors
      torchrun --nproc-per-node 8 -m mmonepeace embed CKPT --images DIR --out index.safetensors
      srun --ntasks 8 mmonepeace embed CKPT --images DIR --out index.safetensors

CKPT is a checkpoint of any layout, or a work directory with one. The index mirrors what the command
names: run it again and only new and changed files are embedded, removed ones leave the index. A run
that was stopped or killed resumes where it was: finished work is in OUT.parts/ until OUT is complete.
Paths are stored relative to OUT, so index and data can move together.

Several processes share the work through OUT.parts/, on a file system that all of them see. The first
one waits for the others and makes the index; if one of them fails, the same command resumes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmonepeace import apis, checkpoint
from mmonepeace.commands.options import (
    add_model_options,
    build_embedder,
    exit_code,
    list_failed,
    make_parser,
)
from mmonepeace.console import printable, progress_bar
from mmonepeace.exit_status import UserError, process_of_run


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--images", type=Path, metavar="DIR", help="with its subfolders")
    parser.add_argument("--audios", type=Path, metavar="DIR", help="with its subfolders")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one per line, or a table")
    parser.add_argument("--text-column", default="caption", help="of the table")
    parser.add_argument("--out", type=Path, required=True, help="the index, a .safetensors")
    help = "of stored embeddings; fp16 halves the index; default: as the index has it, or fp32"
    parser.add_argument("--index-dtype", choices=("fp32", "fp16"), help=help)
    args = parser.parse_args()
    if not (args.images or args.audios or args.texts):
        parser.error("name what to embed: --images, --audios, --texts")
    return args


def run(args: argparse.Namespace) -> None:
    """Embed, and print what was done."""
    process = process_of_run()
    unread: dict[str, str] = {}
    sources: dict[str, Sequence[str | Path]] = {}
    try:
        if args.texts:
            sources["text"] = apis.read_texts(args.texts, args.text_column)
        for modality, folder in (("image", args.images), ("audio", args.audios)):
            if folder:
                sources[modality] = apis.find_files(folder, modality, unread)
        path = checkpoint.find(args.checkpoint).resolve()
        embedder = build_embedder(path, args, progress=False)
    except (ValueError, OSError, UserError) as error:
        error.on_all_ranks = True  # type: ignore[union-attr]  # said once
        raise
    meta = {"checkpoint": str(path)}
    if args.tokenizer:
        meta["tokenizer"] = str(args.tokenizer.resolve())
    work = embedder, args.out, sources, meta
    if process.rank:
        apis.build_part(*work, args.index_dtype, rank=process.rank, processes=process.size)
        return
    with progress_bar(unit=" items") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        built = apis.build_index(*work, progress, args.index_dtype, process.size)
    failed = unread | built.failed
    shown = ", ".join(f"{built.index.count(m):,} {m}" for m in sources)
    print(
        f"{printable(str(args.out))}: {shown} items. {built.embedded:,} embedded, {built.kept:,} kept, "
        f"{built.dropped:,} no longer there and dropped, {len(failed):,} failed."
    )
    if built.outdated:
        print(
            f"{built.outdated:,} old ones were of another model or other options: embedded again."
        )
    list_failed(failed.values())


def main() -> int:
    """Run to the exit status."""
    return exit_code(
        lambda: run(parse_args()), interrupted="stopped: the same command resumes from here."
    )
