"""Members of tar files, damaged ones too: damage costs the members that it is in, no others.

Python's `tarfile` parses the headers. By itself it ends without a word at the first that is damaged,
trusts all numbers and may go round in circles; so it does not decide here where the next one is.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from mmonepeace.datasets.sample_errors import reason

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER = 2**30  # bytes
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)  # of a file that is damaged
_MAX_HEADER = 2**17  # bytes of a header with its extensions: tarfile takes quadratic time
_MAX_READS = 16  # of one header: those that exist have one or two extensions
_MAX_TAR = 2**50  # bytes
_CHUNK = 2**20  # bytes that are searched at once
_MAGIC, _MAGIC_AT = b"ustar", 257
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_FIX = "Make the shard again"


class Member(NamedTuple):
    """A file in a tar file: its name, where its content is, and why it cannot be used."""

    name: str
    offset: int
    size: int
    fault: str = ""


class Tar:
    """A tar file that is open; for `tarfile.TarInfo`, all that it needs of a `TarFile`."""

    encoding, errors = "utf-8", "surrogateescape"

    def __init__(self, file: IO[bytes], size: int | None) -> None:
        self._file, self.size = file, size  # no size: it is compressed
        self.fileobj, self.offset = self, 0
        self.pax_headers: dict[str, str] = {}
        self._left, self._reads = 0, 0

    def tell(self) -> int:
        """Position in the file; `TarInfo` calls it."""
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Part of a header; `TarInfo` calls it, with whatever size the header claims."""
        size = max(0, min(size, self._left))
        self._left -= size
        self._reads += 1
        return self._file.read(size)

    def header(self, position: int) -> tuple[tarfile.TarInfo | None, int]:
        """The header at a position, None for a damaged one; and where the next one may be."""
        self._file.seek(position)
        self._left, self._reads = _MAX_HEADER, 0
        try:
            info = tarfile.TarInfo.fromtarfile(self)  # type: ignore[arg-type]
        except READ_ERRORS:
            raise
        except Exception:  # noqa: BLE001  (damaged headers fail in many ways)
            # The next block, but beyond a chain of extended headers that has no end.
            return None, self.tell() if self._reads > _MAX_READS else position + BLOCK
        fits = info.size >= 0 and self.offset > position
        return (info, self.offset) if fits else (None, position + BLOCK)

    def content(self, member: Member) -> bytes:
        """What a member contains, less than its size if the file ends before."""
        self._file.seek(member.offset)
        return self._file.read(member.size)

    def is_empty(self, position: int) -> bool:
        """Whether a block has nothing but zeros."""
        self._file.seek(position)
        return not self._file.read(BLOCK).strip(b"\0")

    def ends_at(self, position: int) -> bool:
        """Whether there is nothing from a position on."""
        self._file.seek(position)
        return not self._file.read(1)

    def find_header(self, start: int) -> tuple[int | None, bool]:
        """The next header from a position on, a multiple of `BLOCK`; is all before it empty?"""
        size, empty = 8 * BLOCK, True
        while True:
            self._file.seek(start)
            chunk = self._file.read(size)
            at = -1
            while (at := chunk.find(_MAGIC, at + 1)) >= 0:
                block = at - _MAGIC_AT
                if block % BLOCK == 0 and block + BLOCK <= len(chunk) and _is_header(chunk, block):
                    return start + block, empty and not any(chunk[:block])
            empty = empty and not chunk.strip(b"\0")
            if len(chunk) < size:
                return None, empty
            start, size = start + size, min(2 * size, _CHUNK)


@contextmanager
def open_tar(path: Path) -> Iterator[Tar]:
    """Open a tar file, compressed with gzip, bzip2 or xz or not.

    Raises:
        OSError: if it cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(6)
        opener = next((o for magic, o in _OPENERS.items() if start.startswith(magic)), None)
        if opener is None:
            yield Tar(file, path.stat().st_size)
        else:
            with opener(path, "rb") as unpacked:
                yield Tar(unpacked, None)


def walk(tar: Tar) -> Iterator[Member | str]:
    """The members of a tar file but for folders; and what is wrong with it, in between."""
    position, bad_from, empty = 0, None, True
    try:
        while not tar.ends_at(position):
            info, after = tar.header(position)
            if info is not None:
                if bad_from is not None:
                    kind = "empty" if empty else "damaged"
                    yield f"the part from byte {bad_from:,} to byte {position:,} is {kind}."
                    bad_from, empty = None, True
                end = max(info.offset_data + info.size, after - BLOCK + 1)  # they differ if sparse
                cut = end > (_MAX_TAR if tar.size is None else tar.size)
                if not info.isdir():
                    yield Member(info.name, info.offset_data, info.size, _fault(info, cut))
                if not cut:
                    position = after
                    continue
                after = info.offset_data  # its size may be wrong
            bad_from = position if bad_from is None else bad_from
            found, nothing = tar.find_header(after)
            empty = empty and nothing and tar.is_empty(position)
            if found is None:
                break
            position = found
    except READ_ERRORS as error:
        yield f"it cannot be read beyond byte {position:,}: {reason(error)}"
    else:
        if not position and (bad_from is not None or tar.ends_at(0)):
            yield "it is not a tar file, or an empty one."
        elif bad_from is not None and not empty:
            yield f"the part from byte {bad_from:,} to its end is damaged."


def _is_header(chunk: bytes, start: int) -> bool:
    try:
        tarfile.TarInfo.frombuf(chunk[start : start + BLOCK], Tar.encoding, Tar.errors)
    except Exception:  # noqa: BLE001  (damaged headers fail in many ways)
        return False
    return True


def _fault(info: tarfile.TarInfo, cut: bool) -> str:
    """Why a member cannot be used, or nothing."""
    if info.issym() or info.islnk():
        options = "with tar --dereference --hard-dereference"
        return f"{info.name} is a link to {info.linkname}. {_FIX} {options}."
    if info.issparse():
        return f"{info.name} is stored as a sparse file. {_FIX} without tar --sparse."
    if not info.isreg():
        return f"{info.name} is not a file. {_FIX} without it."
    if cut:
        return f"the shard ends before the end of {info.name}. {_FIX}."
    if info.size > MAX_MEMBER:
        return f"{info.name} has {info.size:,} bytes, more than {MAX_MEMBER:,}. {_FIX} without it."
    return ""
