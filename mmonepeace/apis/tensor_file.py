"""Safetensors files larger than the memory: written in chunks of rows, read where they are used.

The library copies all tensors to write a file, and those it reads as arrays.
"""

import json
import mmap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open

from mmonepeace.atomic_file import atomic_file

CHUNK_BYTES = 1 << 24
_TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "U8": "|u1"}


class Rows(NamedTuple):
    """A tensor that is computed while it is written."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: Iterable[np.ndarray]  # its rows, in order


def save_tensors(
    path: Path, tensors: Mapping[str, np.ndarray | Rows], meta: dict[str, str]
) -> None:
    """Write a safetensors file atomically, or raise an OSError."""
    names = {np.dtype(code): name for name, code in _TYPES.items()}
    header: dict[str, object] = {"__metadata__": meta}
    end = 0
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)  # so all are aligned
    for name in order:
        shape, dtype = tensors[name].shape, tensors[name].dtype
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        entry = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(path, concurrent=True) as temporary, temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                value = tensors[name]
                for chunk in value.chunks if isinstance(value, Rows) else _chunks(value):
                    file.write(chunk.tobytes())
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}. Is the disk full?") from None


def map_tensors(path: str | Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a safetensors file, which stay on the disk: read-only maps.

    Raises an OSError or a SafetensorError if there is no such file, or it is damaged, and a
    ValueError if it has other types than those of `save_tensors`.
    """
    with safe_open(str(path), "numpy") as checked:
        meta = checked.metadata() or {}
    with Path(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name} is {entry['dtype']}, expected one of {', '.join(_TYPES)}")
        dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
        start, end = entry["data_offsets"]
        # Private maps, as torch's, count as memory: one larger than the memory is refused.
        tensors[name] = (
            np.memmap(path, dtype, "r", 8 + size + start, shape)
            if end > start
            else np.empty(shape, dtype)
        )
    return meta, tensors


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """An array as a tensor that shares its memory, and is only read: it may be a map of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map cannot be written
        # Tensors have no negative strides.
        return torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy())


def let_go(array: np.ndarray) -> None:
    """Release the memory of a map that was read; the system's cache of the file keeps it."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    return (array[start : start + rows] for start in range(0, len(array), rows))
