"""Files in the WebDataset layout: tar files in which the members of a sample follow each other.

The members of a sample have the same name up to the first dot: `000017.jpg`, `000017.txt`.
`tools/dataset_converters/make_shards.py` writes such shards, and an index with the number of samples
of each beside them. For the members themselves see `tar_members`.
"""

import glob
import importlib
import json
import logging
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mmonepeace.console import printable
from mmonepeace.datasets.sample_errors import MissingError, SampleError, reason
from mmonepeace.datasets.tar_members import BLOCK, READ_ERRORS, Member, Tar, open_tar, walk

MEMBER_SUFFIXES = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "text": ("txt",),
    "audio": ("flac", "wav", "ogg", "mp3"),
}
INDEX = "index.jsonl"  # beside shards; a line has the "shard", its "samples" and its "bytes"
# Not samples: metadata of the WebDataset library, what macOS adds, hidden files.
_SKIPPED = re.compile(r"(^|/)(__[^/]*__|__MACOSX)($|/)|(^|/)\.[^/]*$")

Members = Mapping[str, Any]  # suffix -> bytes, or what is wrong with it; and `__key__`


class _Sample(NamedTuple):
    """A sample of a shard: suffix -> member, or what is wrong with it."""

    key: str
    members: dict[str, Member | str]
    scattered: bool = False  # members of the same key are elsewhere too


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
        entry, size = indexes[path.parent].get(path.name, {}), path.stat().st_size
        known = entry.get("bytes") == size and entry["samples"] * BLOCK <= size
        counts.append(entry["samples"] if known else _count_headers(path))
    return counts


def read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Name of a shard -> its line of an index; empty where there is no index.

    Lines that do not say what they should are left out: their shards are counted instead.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    index = {}
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):  # a run that was stopped leaves an incomplete line
            continue
        try:
            entry = json.loads(line.decode(errors="surrogateescape"))
            if "shard" in entry:
                index[entry["shard"]] = entry
                counts = entry["samples"], entry["bytes"]
                if not all(type(n) is int and n >= 0 for n in counts):
                    raise ValueError(f"{counts} are not numbers")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            index = {name: other for name, other in index.items() if other is not entry}
            _log(f"{path}, line {number} is left out: {reason(error)}")
    return index


def read_samples(path: Path, indices: Iterable[int]) -> Iterator[Members | SampleError]:
    """Samples of one shard by ascending indices, or why a sample cannot be read."""
    waiting = deque(indices)
    try:
        stat = path.stat()
        samples = _samples(path, stat.st_size, stat.st_mtime_ns)
        with open_tar(path) as tar:
            while waiting:
                index = waiting.popleft()
                if index < len(samples):
                    key, members, scattered = samples[index]
                    contents = {suffix: _content(tar, m) for suffix, m in members.items()}
                    yield {"__key__": key, "__scattered__": scattered, **contents}
                else:
                    yield MissingError(
                        f"the shard has only {len(samples)} samples: it is truncated, or its index "
                        "is wrong. Make the shard again."
                    )
    except OSError as error:
        gone = MissingError(f"{path}: {reason(error)}")
        yield from (gone for _ in waiting)


def _content(tar: Tar, member: Member | str) -> bytes | SampleError:
    fault = member if isinstance(member, str) else member.fault
    if isinstance(member, Member) and not fault:
        try:
            content = tar.content(member)
        except READ_ERRORS as error:
            return MissingError(f"{member.name}: {reason(error)} Make the shard again.")
        if len(content) == member.size:
            return content
        fault = f"the shard ends before the end of {member.name}. Make the shard again."
    return MissingError(fault)


def _count_headers(path: Path) -> int:
    """Number of samples that `read_samples` finds, without reading their contents."""
    stat = path.stat()
    return len(_samples(path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=16)
def _samples(path: Path, _size: int, _time: int) -> list[_Sample]:
    """The samples of a shard, from its headers. The arguments after the path say which file it is.

    A shard whose members are sorted by type, all of one suffix before those of another, has them
    joined by their keys. Otherwise the members of a sample are those that follow each other.
    """
    groups: list[_Sample] = []
    with open_tar(path) as tar:
        for member in walk(tar):
            if isinstance(member, str):
                _log(f"{path}: {member}")
                continue
            folder, slash, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            if not stem or not dot or _SKIPPED.search(member.name):
                continue
            key, suffix = f"{folder}{slash}{stem}", suffix.lower()
            if not groups or groups[-1].key != key:
                groups.append(_Sample(key, {}))
            members = groups[-1].members
            if suffix in members:
                other = members[suffix]
                names = {member.name} | ({other.name} if isinstance(other, Member) else set())
                fault = f"{' and '.join(sorted(names))} is more than one member of the shard."
                members[suffix] = f"{fault} Make the shard again, with one of them."
            else:
                members[suffix] = member
    counts = Counter(group.key for group in groups)
    if len(counts) < len(groups) and all(len(group.members) == 1 for group in groups):
        joined = {key: _Sample(key, {}) for key in counts}
        for key, members, _ in groups:
            joined[key].members.update(members)
        if sum(len(sample.members) for sample in joined.values()) == len(groups):
            return list(joined.values())
    return [group._replace(scattered=counts[group.key] > 1) for group in groups]


def _log(message: str) -> None:
    from mmengine.logging import print_log

    print_log(printable(message), "current", logging.WARNING)


def _import(name: str) -> ModuleType:
    """A module of the webdataset library or of its dependencies."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError("shards need a library: pip install webdataset") from None
