"""Files of torch: the zip archive of today, the format before 1.6, and raw pickles with tensors.

`torch.load` is not used. It runs programs (TorchScript archives), trusts the sizes that a file
claims, and with mapped files checks none of their checksums.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError
from mmonepeace.checkpoint.unpickling import Inert, Storage, StorageType, Unpickler, resolve

_MAGIC = 0x1950A86A20F9469CFC6C  # torch files before 1.6 begin with it, pickled
_MAX_PICKLE = 2**30  # bytes; those of real files, without their tensors, have less than 10 MB


def read_torch(path: Path) -> Any:
    """Read what a file holds; see `unpickling` for what that may be.

    The tensors of a zip archive stay on disk until they are used, all others are in memory. The
    checksum of everything but the tensors is verified, see `verify_archive` for these.

    Raises:
        CheckpointError: for a program, and for what cannot belong to a checkpoint.
        Exception: of any kind, if the file is damaged.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            return resolve(_read_archive(path, file))
        file.seek(0)
        return resolve(_read_stream(file, path.stat().st_size))


def crc32(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a tensor, about 2 GB/s."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data) if flat.numel() else 0


def crc32_of_all(tensors: Iterable[Tensor]) -> list[int]:
    """`crc32` of each tensor, computed in several threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(crc32, tensors))


def verify_archive(path: Path) -> None:
    """Check the checksums of a zip archive, at the speed of the disk or 2 GB/s for each processor.

    Raises:
        CheckpointError: with what is damaged.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return  # formats without checksums
        entries = _Archive(path, file)
        infos = [info for info in entries.infos.values() if info.file_size]
        found = crc32_of_all(_bytes_of(entries.data(info)) for info in infos)
    damaged = [info.filename for info, crc in zip(infos, found, strict=True) if crc != info.CRC]
    if damaged:
        raise CheckpointError(
            f"{len(damaged)} of {len(infos)} parts do not match their checksum, such as "
            f"{damaged[0]}: the file is damaged. Restore a copy."
        )


def _bytes_of(data: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(data)


class _Archive:
    """The entries of a zip archive that torch wrote, mapped: without compression."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.file = file
        size = path.stat().st_size
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        if len({info.filename for info in infos}) < len(infos):
            raise CheckpointError("two parts of the archive have the same name.")
        if sum(info.file_size for info in infos) > size:
            raise CheckpointError("its parts claim more bytes than the file has.")
        roots = [i.filename[:-9] for i in infos if i.filename.endswith("/data.pkl")]
        roots = [root for root in roots if "/" not in root]
        if len(roots) != 1:
            raise CheckpointError("an archive without a data.pkl: not a checkpoint of torch.")
        start = f"{roots[0]}/"
        self.infos = {info.filename.removeprefix(start): info for info in infos}
        if "constants.pkl" in self.infos or any(name.startswith("code/") for name in self.infos):
            raise CheckpointError(
                "refused: a TorchScript program, which would be run. Save a state dict instead: "
                "torch.save(model.state_dict(), PATH). Nothing was executed."
            )
        if any(info.compress_type or info.flag_bits & 1 for info in infos):
            raise CheckpointError("its parts are compressed or encrypted: not a file of torch.")
        self.whole = torch.UntypedStorage.from_file(str(path), False, size)

    def data(self, info: zipfile.ZipInfo) -> torch.UntypedStorage:
        """The bytes of an entry."""
        self.file.seek(info.header_offset)
        header = struct.unpack("<4s22x2H", self.file.read(30))
        if header[0] != b"PK\x03\x04":
            raise CheckpointError(f"{info.filename} is not where the archive says.")
        start = info.header_offset + 30 + header[1] + header[2]
        if start + info.file_size > self.whole.nbytes():
            raise CheckpointError(f"{info.filename} is cut off.")
        return self.whole[start : start + info.file_size]

    def read(self, name: str) -> bytes:
        """The bytes of a small entry, whose checksum is verified."""
        info = self.infos[name]
        if info.file_size > _MAX_PICKLE:
            raise CheckpointError(f"{info.filename} has {info.file_size:,} bytes without tensors.")
        data = _bytes_of(self.data(info)).numpy().tobytes() if info.file_size else b""
        if zlib.crc32(data) != info.CRC:
            raise CheckpointError(f"{info.filename} does not match its checksum: damaged.")
        return data


def _read_archive(path: Path, file: BinaryIO) -> Any:
    archive = _Archive(path, file)
    if "byteorder" in archive.infos and archive.read("byteorder") != b"little":
        raise CheckpointError("it was not written by a little-endian machine, or is damaged.")
    found: dict[str, torch.UntypedStorage] = {}

    def find_storage(identifier: Any) -> Storage:
        kind, storage_type, key, _location, count = identifier[:5]
        if kind != "storage" or not isinstance(storage_type, StorageType):
            raise CheckpointError(f"refers to {identifier!r:.80}, which is no storage.")
        if key not in found:
            if (info := archive.infos.get(f"data/{key}")) is None:
                raise CheckpointError(f"the numbers of a tensor are missing (data/{key}).")
            data = archive.data(info) if info.file_size else torch.UntypedStorage(0)
            # A view of numbers must begin at a multiple of their size.
            found[key] = data if data.data_ptr() % 16 == 0 else data.clone()
        dtype = storage_type.dtype
        if found[key].nbytes() // dtype.itemsize != count:
            raise CheckpointError(
                f"data/{key} has {found[key].nbytes()} bytes, not {count} of {dtype}."
            )
        return Storage(found[key], dtype)

    return Unpickler(io.BytesIO(archive.read("data.pkl")), find_storage).load()


def _read_stream(file: BinaryIO, size: int) -> Any:
    """A raw pickle, or a torch file of before 1.6: pickles, followed by the numbers of tensors."""
    content = Unpickler(file, load_bytes=_load_bytes).load()
    if type(content) is not int or content != _MAGIC:
        return content
    _protocol, info = (Unpickler(file).load() for _ in range(2))
    if not info["little_endian"]:
        raise CheckpointError("it was not written by a little-endian machine, or is damaged.")
    storages: dict[Any, torch.UntypedStorage] = {}
    item_sizes: dict[Any, int] = {}
    claimed = 0

    def find_storage(identifier: Any) -> Any:
        nonlocal claimed
        if identifier[0] == "module":  # a class, with its source code
            return Inert
        kind, storage_type, key, _location, count, view = identifier
        if kind != "storage" or not isinstance(storage_type, StorageType) or count < 0:
            raise CheckpointError(f"refers to {identifier!r:.80}, which is no storage.")
        itemsize = storage_type.dtype.itemsize
        if key not in storages:
            claimed += count * itemsize
            if claimed > size:
                raise CheckpointError("its tensors claim more bytes than the file has.")
            storages[key] = torch.UntypedStorage(count * itemsize)
            item_sizes[key] = itemsize
        data = storages[key]
        if view is not None:
            _, offset, length = view
            data = data[offset * itemsize : (offset + length) * itemsize]
        return Storage(data, storage_type.dtype)

    content = Unpickler(file, find_storage).load()
    keys = Unpickler(file).load()
    if sorted(keys) != sorted(storages):
        raise CheckpointError("the numbers of a tensor are missing, or belong to none.")
    for key in keys:
        data = storages[key]
        if int.from_bytes(file.read(8), "little") * item_sizes[key] != data.nbytes():
            raise CheckpointError(f"storage {key} has not the size that the file says.")
        if data.nbytes() and file.readinto(_bytes_of(data).numpy()) != data.nbytes():  # type: ignore[attr-defined]
            raise CheckpointError(f"storage {key} is cut off.")
    return content


def _load_bytes(data: bytes) -> Any:
    """What raw pickles call with a torch file that has the numbers of a tensor."""
    return _read_stream(io.BytesIO(data), len(data))
