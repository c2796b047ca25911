"""Files of the WebDataset layout: tar files whose samples are runs of members of one name.

The name of a member is that of its sample up to the first dot: `000017.jpg`, `000017.txt`.
`tools/dataset_converters/make_shards.py` writes such shards, and beside them an index that says how
many samples each has.
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

SUFFIXES = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "text": ("txt",),
    "audio": ("flac", "wav", "ogg", "mp3"),
}
INDEX = "index.jsonl"  # beside shards; its lines with a "shard" tell its "samples" and "bytes"
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError)  # of a file that is cut or no tar

Members = Mapping[str, Any]  # suffix -> bytes, and `__key__`


def find_shards(shards: str | Sequence[str], data_root: str = "") -> list[Path]:
    """The files of folders, and of paths with braces or wildcards, sorted.

    Raises:
        FileNotFoundError: if one of them names no file.
    """
    expand = _import("braceexpand").braceexpand
    found: set[str] = set()
    for pattern in [shards] if isinstance(shards, str) else shards:
        for name in expand(str(Path(data_root) / pattern)):
            paths = glob.glob(f"{name}/*.tar" if Path(name).is_dir() else name)
            if not paths:
                raise FileNotFoundError(
                    f"{name}: no such shard. Make some with tools/dataset_converters/make_shards.py"
                )
            found.update(paths)
    return sorted(map(Path, found))


def count_samples(shards: Iterable[Path]) -> list[int]:
    """Samples of each shard: from the index beside it, else from the headers in it."""
    index: dict[Path, dict[str, Any]] = {}
    counts = []
    for path in shards:
        if path.parent / INDEX not in index:
            index[path.parent / INDEX] = read_index(path.parent / INDEX)
        entry = index[path.parent / INDEX].get(path.name, {})
        known = entry.get("bytes") == path.stat().st_size
        counts.append(entry["samples"] if known else _count_headers(path))
    return counts


def read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Name of a shard -> its line of an index; none where there is no index."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    # A line that is not whole is that of a run that was stopped.
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["shard"]: entry for entry in entries if "shard" in entry}


def read_samples(path: Path, numbers: Iterable[int]) -> Iterator[Members | None]:
    """Samples of one shard by their rising numbers; None for each that a cut shard lacks."""
    tar = _import("webdataset.tariterators")
    wanted = deque(numbers)
    try:
        with open(path, "rb") as file:
            members = tar.tar_file_expander([{"url": str(path), "stream": file}])
            for number, sample in enumerate(tar.group_by_keys(members)):
                if number == wanted[0]:
                    wanted.popleft()
                    yield sample
                    if not wanted:
                        return
    except TAR_ERRORS as error:
        print_log(f"{path} is broken: {error}", "current", logging.WARNING)
    for _ in wanted:
        yield None


def _count_headers(path: Path) -> int:
    """As `read_samples` would count, without the contents."""
    count = 0
    try:
        with tarfile.open(path) as tar:
            names = (m.name for m in tar if m.isreg() and not re.match(r"__[^/]*__($|/)", m.name))
            files = ({"fname": name, "data": b"", "__url__": ""} for name in names)
            for _ in _import("webdataset.tariterators").group_by_keys(files):
                count += 1
    except TAR_ERRORS as error:
        print_log(f"{path} is cut after {count} samples: {error}", "current", logging.WARNING)
    return count


def _import(name: str) -> ModuleType:
    """A part of the webdataset library, or of what comes with it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError("shards need a library: pip install webdataset") from None
