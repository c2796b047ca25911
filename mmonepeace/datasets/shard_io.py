"""Files in the WebDataset layout: tar files in which the members of a sample follow each other.

The members of a sample have the same name up to the first dot: `000017.jpg`, `000017.txt`.
`tools/dataset_converters/make_shards.py` writes such shards, and an index with the number of samples
of each beside them.
"""

import glob
import importlib
import json
import logging
import re
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.logging import print_log

MEMBER_SUFFIXES = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "text": ("txt",),
    "audio": ("flac", "wav", "ogg", "mp3"),
}
INDEX = "index.jsonl"  # beside shards; a line has the "shard", its "samples" and its "bytes"
# Raised for a file that is truncated or not a tar.
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError)

Members = Mapping[str, Any]  # suffix -> bytes, and `__key__`


def find_shards(shards: str | Sequence[str], data_root: str = "") -> list[Path]:
    """Files in folders, and of paths with braces or wildcards, sorted.

    Raises:
        FileNotFoundError: if one of them matches no file.
    """
    expand = _import("braceexpand").braceexpand
    matches: set[str] = set()
    for pattern in [shards] if isinstance(shards, str) else shards:
        for name in expand(str(Path(data_root) / pattern)):
            paths = glob.glob(f"{name}/*.tar" if Path(name).is_dir() else name)
            if not paths:
                raise FileNotFoundError(
                    f"{name}: no such shard. Make some with tools/dataset_converters/make_shards.py"
                )
            matches.update(paths)
    return sorted(map(Path, matches))


def count_samples(shards: Sequence[Path]) -> list[int]:
    """Number of samples of each shard: from the index beside it, else from its tar headers."""
    indexes = {folder: read_index(folder / INDEX) for folder in {path.parent for path in shards}}
    counts = []
    for path in shards:
        entry = indexes[path.parent].get(path.name, {})
        known = entry.get("bytes") == path.stat().st_size
        counts.append(entry["samples"] if known else _count_headers(path))
    return counts


def read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Name of a shard -> its line of an index; empty where there is no index."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    # A run that was stopped leaves an incomplete line.
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["shard"]: entry for entry in entries if "shard" in entry}


def read_samples(path: Path, indices: Iterable[int]) -> Iterator[Members | None]:
    """Samples of one shard by ascending indices; None for each that a truncated shard lacks."""
    tar = _import("webdataset.tariterators")
    wanted = deque(indices)
    try:
        with open(path, "rb") as file:
            members = tar.tar_file_expander([{"url": str(path), "stream": file}])
            for index, sample in enumerate(tar.group_by_keys(members)):
                if index == wanted[0]:
                    wanted.popleft()
                    yield sample
                    if not wanted:
                        return
    except TAR_ERRORS as error:
        print_log(f"{path} is broken: {error}", "current", logging.WARNING)
    for _ in wanted:
        yield None


def _count_headers(path: Path) -> int:
    """Number of samples that `read_samples` finds, without reading their contents."""
    count = 0
    try:
        with tarfile.open(path) as tar:
            names = (m.name for m in tar if m.isreg() and not re.match(r"__[^/]*__($|/)", m.name))
            files = ({"fname": name, "data": b"", "__url__": ""} for name in names)
            for _ in _import("webdataset.tariterators").group_by_keys(files):
                count += 1
    except TAR_ERRORS as error:
        print_log(f"{path} is truncated after {count} samples: {error}", "current", logging.WARNING)
    return count


def _import(name: str) -> ModuleType:
    """A module of the webdataset library or of its dependencies."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError("shards need a library: pip install webdataset") from None
