"""The files of a data set as its authors publish them, packed or unpacked, and readers for them.

Nothing in a file is run: pickles are read by the reader of checkpoints, YAML without its objects.
"""

import csv
import gzip
import io
import json
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from downloads import DataError
from tqdm import tqdm

from mmonepeace.atomic_file import atomic_file

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NOT_READ = (".7z", ".rar", ".z01")  # the last one: the first part of a zip in several parts
_OF_COCO = re.compile(r"COCO_(train2014|val2014|test2015)_\d+\.jpg$")
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    RuntimeError,  # an encrypted zip, or a compression that Python does not know
)  # fmt: skip


class _Found(NamedTuple):
    """A file on the disk, or a member of an archive there."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """Its path, with slashes."""
        return self.member or self.path.as_posix()


class Source:
    """The official files of a data set.

    Args:
        folders: where they are, at any depth: unpacked, or in .zip and .tar archives.
        out: folder of the tables; files that samples need are unpacked into it.

    Raises:
        DataError: if a folder is missing or an archive is damaged.
    """

    def __init__(self, folders: Sequence[Path], out: Path) -> None:
        self.folders, self.out = folders, out
        self._by_name: dict[str, list[_Found]] = defaultdict(list)
        self._by_stem: dict[str, list[_Found]] = defaultdict(list)
        self._unread: list[Path] = []
        self._wanted: dict[Path, dict[str, Path]] = defaultdict(dict)
        for folder in folders:
            if not folder.is_dir():
                raise DataError(
                    f"{folder}: no such folder. Put the official files into one; --list names those "
                    "of each set."
                )
        self._root = out.resolve()
        self._located: dict[tuple[str, ...], str | None] = {}
        paths = sorted({path for folder in folders for path in _files_in(folder.resolve())})
        for path in tqdm(paths, "finding files", unit="file", disable=None):
            if path.name.lower().endswith(_NOT_READ):
                self._unread.append(path)
            elif _is_zip(path) or path.name.lower().endswith(_TAR_SUFFIXES):
                for member in _members(path):
                    self._add(_Found(path, member))
            else:
                self._add(_Found(path))

    def _add(self, found: _Found) -> None:
        name = PurePosixPath(found.name)
        if name.name.startswith("._") or "__MACOSX" in name.parts:
            return
        self._by_name[name.name].append(found)
        if name.suffix.lower() in (*AUDIO_SUFFIXES, *_VIDEO_SUFFIXES):
            self._by_stem[name.name[: -len(name.suffix)]].append(found)

    def has(self, name: str) -> bool:
        """Whether there is a file whose path ends with a name."""
        return bool(self._matches(name))

    def _matches(self, name: str) -> list[_Found]:
        """Files whose path ends with a name, unpacked ones first; `STEM.*` is any audio file."""
        last = name.rpartition("/")[2]
        if name.endswith(".*"):
            same = self._by_stem.get(last[:-2], [])
            ends = tuple(f"/{name[:-2]}{suffix}" for suffix in AUDIO_SUFFIXES)
            found = [f for f in same if _with_lower_suffix(f).endswith(ends)]
        else:
            same = self._by_name.get(last, [])
            found = [f for f in same if f"/{f.name}".endswith(f"/{name}")]
        return sorted(found, key=lambda f: (bool(f.member), len(f.name), f.name))

    def read(self, name: str, where: str = "") -> bytes:
        """The content of an annotation file.

        Args:
            name: end of its path.
            where: where it is published, for the error.

        Raises:
            DataError: if it is missing, there twice with different content, or damaged.
        """
        contents = {}
        for found in self._matches(name):
            with _explain_broken(found.path):
                if not found.member:
                    contents[found.path.read_bytes()] = found
                elif _is_zip(found.path):
                    with zipfile.ZipFile(found.path) as archive:
                        contents[archive.read(found.member)] = found
                else:
                    with tarfile.open(found.path) as archive:
                        file = archive.extractfile(found.member)
                        assert file  # a regular file, see `_members`
                        contents[file.read()] = found
        folders = ", ".join(map(str, self.folders))
        if not contents:
            raise DataError(f"{folders}: there is no {name}. {self._hint()}Get it{where} first.")
        if len(contents) > 1:
            places = " and ".join(str(f.path) for f in contents.values())
            raise DataError(f"{name} is there with different content: {places}. Remove one.")
        return next(iter(contents))

    def _hint(self) -> str:
        if not self._unread:
            return ""
        path = self._unread[0]
        if path.suffix.lower() == ".z01":
            whole = path.with_suffix(".zip").name
            return f"{path.name} is one of several parts: zip -s 0 {whole} --out whole.zip; rm {path.stem}.z*. "
        return f"{path.name} is not read: unpack it with 7z x {path.name}. "

    def find(self, names: Sequence[str]) -> str | None:
        """Path of a file of a sample, relative to `out`; it will be there after `unpack`.

        Args:
            names: ends of paths, the first that is there counts; `STEM.*` is any audio file.
        """
        key = tuple(names)
        if key not in self._located:
            found = next((found[0] for name in names if (found := self._matches(name))), None)
            self._located[key] = self._locate(found) if found else None
        return self._located[key]

    def _locate(self, found: _Found) -> str:
        if not found.member:
            return Path(os.path.relpath(found.path, self._root)).as_posix()
        self._wanted[found.path][found.member] = self.out / found.member
        return PurePosixPath(found.member).as_posix()

    def why_missing(self, names: Sequence[str]) -> str:
        """What to do about a file that is not there; empty if nothing is known."""
        for name in names:
            for found in self._by_stem.get(name.rpartition("/")[2].removesuffix(".*"), []):
                if found.name.lower().endswith(_VIDEO_SUFFIXES):
                    video = PurePosixPath(found.name)
                    return (
                        f"There is {video.name}: take the sound out of the videos, for example "
                        f"ffmpeg -i {video.name} -vn -ac 1 -ar 16000 {video.stem}.wav. "
                    )
            if part := _OF_COCO.search(name):
                return f"They are in {part[1]}.zip of COCO (images.cocodataset.org/zips). "
        return self._hint()

    def unpack(self) -> None:
        """Unpack what `find` has found in archives, but not what is there already."""
        for path, members in self._wanted.items():
            with (
                _explain_broken(path),
                tqdm(total=len(members), desc=path.name, unit="file") as bar,
            ):
                for member, size, file in _open_members(path, members):
                    target = members[member]
                    if not (target.is_file() and target.stat().st_size == size):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with atomic_file(target, durable=False) as temporary:
                            temporary.write_bytes(file().read())
                    bar.update()
        if self._wanted:
            os.sync()  # before the tables that name these files


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _with_lower_suffix(found: _Found) -> str:
    stem, dot, suffix = f"/{found.name}".rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def _files_in(folder: Path) -> Iterator[Path]:
    """All files of a folder, through links too, each folder once."""
    seen = set[str]()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield Path(root, name)


def _members(path: Path) -> list[str]:
    """The regular files in an archive, but not those that would leave the folder."""
    with _explain_broken(path):
        if _is_zip(path):
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        else:
            with tarfile.open(path) as archive:
                names = [info.name for info in archive if info.isreg()]
    return [n for n in names if not n.startswith("/") and ".." not in PurePosixPath(n).parts]


def _open_members(path: Path, wanted: dict[str, Path]) -> Iterator[tuple[str, int, Any]]:
    """(Name, size, function that opens it) of each wanted member, in the order of the archive."""
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename in wanted:
                    yield info.filename, info.file_size, lambda info=info: archive.open(info)
        return
    with tarfile.open(path) as archive:
        for info in archive:
            if info.name in wanted:
                yield info.name, info.size, lambda info=info: archive.extractfile(info)


@contextmanager
def _explain_broken(path: Path) -> Iterator[None]:
    """One line for an archive that cannot be read."""
    try:
        yield
    except _BROKEN as error:
        whole = path.with_suffix(".zip").name
        parts = path.with_suffix(".z01").exists()
        fix = (
            f"Join its parts: zip -s 0 {whole} --out whole.zip." if parts else "Download it again."
        )
        raise DataError(
            f"{path} cannot be unpacked: {str(error) or type(error).__name__}. {fix}"
        ) from None


@contextmanager
def explain_format(name: str, expected: str) -> Iterator[None]:
    """One line for a file that is not in its official format.

    Args:
        name: of the file.
        expected: what it should have.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        detail = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{name} is not in the official format: {detail}. Expected {expected}. Is it damaged, or "
            "another version? Download it again."
        ) from None


def read_json(source: Source, name: str, where: str = "") -> Any:
    """The content of a JSON file."""
    data = source.read(name, where)
    with explain_format(name, "JSON"):
        return json.loads(data)


def read_json_lines(source: Source, name: str, where: str = "") -> list[Any]:
    """The content of a file with one JSON value per line."""
    data = source.read(name, where)
    with explain_format(name, "JSON in each line"):
        return [json.loads(line) for line in data.splitlines() if line.strip()]


def read_csv(
    source: Source, name: str, columns: Sequence[str], where: str = "", header: bool = True
) -> list[dict[str, str]]:
    """The rows of a .csv.

    Args:
        source: the official files.
        name: of the file.
        columns: those that are needed; without a header, all, in order.
        where: where it is published, for the error.
        header: whether the first line names the columns.
    """
    data = source.read(name, where)
    with explain_format(name, f"a .csv in UTF-8 with the columns {', '.join(columns)}"):
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
        lines = [line for line in lines if line]
        names = lines.pop(0) if header and lines else list(columns)
        if missing := [column for column in columns if column not in names]:
            raise KeyError(f"column {missing[0]}; there is {', '.join(names)}")
        for number, line in enumerate(lines, start=1 + header):
            if len(line) != len(names):
                raise ValueError(f"row {number} has {len(line)} fields, not {len(names)}")
        return [dict(zip(names, line, strict=True)) for line in lines]


def read_yaml(source: Source, name: str, where: str = "") -> Any:
    """The content of a YAML file, of plain values only."""
    import yaml

    data = source.read(name, where)
    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} is not YAML: {reason}. Download it again.") from None


def read_pickle(source: Source, name: str, where: str = "") -> Any:
    """The plain values in a pickle, which may be hostile: it is read without running it.

    Raises:
        DataError: if it is damaged, or calls anything.
    """
    from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file
    from mmonepeace.checkpoint.unpickling import Unpickler, resolve

    file = io.BytesIO(source.read(name, where))
    try:
        with explain_broken_file("a pickle"):
            return resolve(Unpickler(file).load())
    except CheckpointError as error:
        reason = str(error).replace("in a checkpoint", "among annotations")
        raise DataError(f"{name}: {reason} Download it again.") from None
