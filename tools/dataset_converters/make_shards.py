"""Pack the samples of a manifest into WebDataset shards, for ShardDataset.

Run:    python tools/dataset_converters/make_shards.py MANIFEST OUT --columns image=image text=caption
Makes:  OUT/000000.tar, 000001.tar, ... and OUT/index.jsonl, which lists their content

MANIFEST is a table (.tsv, .csv, .jsonl). Files are copied as they are; those that cannot be
read are left out, listed at the end, and make the exit code 1. Rows are shuffled, because reading only
shuffles samples that are near each other. A stopped run can be resumed: a shard exists only when it
is complete. The same command gives the same bytes.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import numpy as np
    from tqdm import tqdm

    from mmonepeace.console import printable
    from mmonepeace.datasets.manifest import ManifestError, Row, read_manifest
    from mmonepeace.datasets.sample_errors import reason
    from mmonepeace.datasets.shard_io import INDEX, MEMBER_SUFFIXES, read_index


class ShardError(Exception):
    """Something the user has to fix. The message is for the user."""


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--columns", nargs="+", required=True, metavar="MODALITY=COLUMN",
        help="image, text and audio, and their columns in the manifest",
    )  # fmt: skip
    parser.add_argument("--data-root", type=Path, help="of its paths; default: its folder")
    parser.add_argument("--shard-size", type=int, default=1000, help="rows per shard")
    parser.add_argument("--keep-order", action="store_true", help="do not shuffle")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffling")
    args = parser.parse_args()
    if not all("=" in column for column in args.columns):
        parser.error("--columns takes MODALITY=COLUMN, such as text=caption")
    if args.shard_size < 1:
        parser.error("--shard-size must be at least 1")
    return args


def open_index(path: Path, source: dict[str, Any]) -> dict[str, Any]:
    """Start an index, or read the lines of the shards that are done.

    Its first line is `source`: a folder has shards of one manifest, made with one set of options.
    """
    line = json.dumps({"source": source}) + "\n"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if any(path.parent.glob("*.tar")):
            raise ShardError(f"{path.parent} has other shards. Choose an empty folder.")
        path.write_text(line)
        return {}
    lines = path.read_text(errors="surrogateescape").splitlines(keepends=True)
    if lines[:1] != [line]:
        raise ShardError(
            f"{path.parent} has shards of another manifest or other options. Remove it, or "
            "choose another folder."
        )
    whole = "".join(line for line in lines if line.endswith("\n"))  # no incomplete line
    path.write_text(whole, errors="surrogateescape")
    return read_index(path)


def suffix_of(modality: str, value: str) -> str:
    """Suffix of the member of a sample for a value of a row.

    Raises:
        ShardError: if `ShardDataset` could not read it.
    """
    suffix = "txt" if modality == "text" else Path(value).suffix[1:].lower()
    if suffix not in MEMBER_SUFFIXES[modality]:
        raise ShardError(
            f"{value}: .{suffix} is not read as {modality}; convert it to one of "
            f"{', '.join(MEMBER_SUFFIXES[modality])}."
        )
    return suffix


def members(row: Row, folder: Path) -> dict[str, bytes]:
    """Suffix -> content of one sample.

    Raises:
        OSError, ValueError: if a file of it is missing or cannot be read.
    """
    return {
        suffix_of(name, value): value.encode() if name == "text" else (folder / value).read_bytes()
        for name, value in row.items()
    }


def write_shard(path: Path, rows: dict[int, Row], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Write one shard atomically.

    Returns:
        its line of the index, and the files that are missing.
    """
    from webdataset import TarWriter

    missing, samples = [], 0
    with (
        atomic_file(path) as temporary,
        temporary.open("wb") as file,
        # No time and no user: the same samples give the same bytes.
        TarWriter(file, user="", group="", mtime=0, encoder=False) as tar,
    ):
        for number, row in rows.items():
            try:
                content = members(row, folder)
            except (OSError, ValueError) as error:  # ValueError: no name of a file
                missing.append(f"{getattr(error, 'filename', None) or row} ({reason(error)})")
                continue
            tar.write({"__key__": f"{number:09d}", **content})
            samples += 1
    size = path.stat().st_size
    return {"shard": path.name, "samples": samples, "bytes": size, "missing": missing}, missing


def run() -> int:
    """Pack all rows that are not in a shard yet."""
    args = parse()
    columns = dict(column.split("=", 1) for column in args.columns)
    rows = read_manifest(args.manifest, columns)
    for row in rows:  # before hours of work
        for modality, value in row.items():
            suffix_of(modality, value)
    folder = args.data_root or args.manifest.parent
    order = np.arange(len(rows))
    if not args.keep_order:
        np.random.default_rng(args.seed).shuffle(order)
    source = {
        "manifest": hashlib.sha256(args.manifest.read_bytes()).hexdigest(),
        "columns": columns,
        "shard_size": args.shard_size,
        "seed": None if args.keep_order else args.seed,
    }
    index = args.out / INDEX
    done = open_index(index, source)
    missing = [name for entry in done.values() for name in entry.get("missing", [])]
    with tqdm(total=len(rows), unit=" samples", disable=None) as bar:
        for begin in range(0, len(rows), args.shard_size):
            numbers = order[begin : begin + args.shard_size].tolist()
            path = args.out / f"{begin // args.shard_size:06d}.tar"
            if path.name not in done:
                entry, lost = write_shard(path, {n: rows[n] for n in numbers}, folder)
                missing += lost
                with index.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            bar.update(len(numbers))
    shards = -(-len(rows) // args.shard_size)
    print(f"{args.out}: {len(rows) - len(missing):,} samples in {shards:,} shards.")
    if missing:
        named = printable(", ".join(missing[:5]))
        print(f"{len(missing):,} left out, a file cannot be read: {named}, ...")
    return 1 if missing else 0


if __name__ == "__main__":
    try:
        sys.exit(run())
    except (ShardError, ManifestError, OSError) as error:
        print(printable(str(error)), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped: run the same command again to resume.", file=sys.stderr)
        sys.exit(130)
