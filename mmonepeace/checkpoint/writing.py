"""Writing checkpoints atomically, with one tensor in memory at a time."""

import json
import pickle
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmonepeace.atomic_file import atomic_files
from mmonepeace.checkpoint.errors import CheckpointError, StateDict
from mmonepeace.checkpoint.finding import index_of
from mmonepeace.checkpoint.integrity import CHECKSUMS, hash_of_rest
from mmonepeace.checkpoint.key_mapping import Conversion
from mmonepeace.checkpoint.reading import hash_of_index

Progress = Callable[[int, int], None]  # bytes written so far, bytes of all tensors

_SAFETENSORS_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class _Counted:
    """A file that reports how many bytes are appended to it."""

    def __init__(self, file: BinaryIO, report: Callable[[int], None]) -> None:
        self.file, self.report = file, report

    def write(self, data: Any) -> int:
        count = self.file.write(data)
        self.report(count)
        return count

    def overwrite(self, at: int, data: bytes) -> None:
        self.file.seek(at)
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _dump_safetensors(weights: Mapping[str, Tensor], meta: dict[str, str], file: _Counted) -> None:
    """Write the safetensors format, which the library itself cannot do with a progress report.

    The metadata gets checksums. Those of the tensors are known, and replace zeros, once they are
    written: each is read only once.
    """
    order = sorted(weights, key=lambda name: (-weights[name].element_size(), name))
    entries: dict[str, Any] = {}
    end = 0
    for name in order:
        value = weights[name]
        if value.dtype not in _SAFETENSORS_DTYPES:
            raise CheckpointError(f"{name}: safetensors has no {value.dtype}. Use .pth.")
        start, end = end, end + value.nbytes
        dtype, shape = _SAFETENSORS_DTYPES[value.dtype], list(value.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    crcs = dict.fromkeys(order, "0" * 8)
    checksums = {"tensors": crcs, "rest": hash_of_rest({"weights": weights, "meta": meta})}

    def header() -> bytes:
        text = {"__metadata__": {**meta, CHECKSUMS: json.dumps(checksums)}, **entries}
        return json.dumps(text, separators=(",", ":")).encode()

    size = len(header())
    padding = -size % 8
    file.write((size + padding).to_bytes(8, "little") + header() + b" " * padding)
    for name in order:
        flat = weights[name].detach().cpu().contiguous().view(-1)
        data = flat.view(torch.uint8).numpy().data
        crcs[name] = f"{zlib.crc32(data):08x}"
        file.write(data)
    file.overwrite(8, header())


def _dump_text(text: str, file: Any) -> None:
    file.write(text.encode())


def _dump_pickle(content: dict[str, Any], file: Any) -> None:
    pickler = pickle.Pickler(file)
    pickler.fast = True  # no memo: it would keep the bytes of every tensor
    pickler.dump(content)


def _own_storage(weights: StateDict) -> StateDict:
    """Tensors without the rest of a larger storage, which torch and pickle would write too."""
    return {
        name: value
        if value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        else value.clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }


def _split(weights: StateDict, limit: int) -> list[StateDict]:
    """Shards of at most `limit` bytes; a larger tensor gets one for itself."""
    shards: list[StateDict] = [{}]
    size = 0
    for name, value in weights.items():
        if shards[-1] and size + value.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    return shards


def _plan(
    path: Path, converted: Conversion, shard_size: int | None
) -> dict[Path, Callable[[Any], None]]:
    """File -> function that writes its content; the last file makes the checkpoint exist."""
    weights, meta = converted.weights, converted.meta
    own = meta.get("format") == "mmonepeace"
    if path.suffix == ".safetensors":
        shards = _split(weights, shard_size) if shard_size else [weights]
        if len(shards) == 1:
            return {path: partial(_dump_safetensors, weights, meta)}
        plan, shard_of = {}, dict[str, str]()
        for i, shard in enumerate(shards, 1):
            name = f"{path.stem}-{i:05}-of-{len(shards):05}.safetensors"
            plan[path.with_name(name)] = partial(_dump_safetensors, shard, meta)
            shard_of |= dict.fromkeys(shard, name)
        total = sum(value.nbytes for value in weights.values())
        facts = {**meta, "total_size": total}
        facts[CHECKSUMS] = hash_of_index(shard_of, facts)
        index = {"metadata": facts, "weight_map": shard_of}
        text = json.dumps(index, indent=2).encode()
        return {**plan, index_of(path): lambda file: file.write(text)}
    if shard_size:
        raise CheckpointError(f"{path}: shards are safetensors files. Use .safetensors.")
    layout = meta.get("official_layout")
    if path.suffix in (".pth", ".pt"):
        if own or layout != "full":
            key = "state_dict" if own or layout == "segmentation" else "model"
            content = {key: _own_storage(weights), "meta": meta}
        else:
            cfg = json.loads(meta.get("official_cfg", "null"))
            content = {"args": None, "cfg": cfg, "model": _own_storage(weights)}
            own_facts = {k: v for k, v in meta.items() if not k.startswith("official_")}
            content |= {"meta": own_facts} if own_facts else {}  # which the official code ignores
        return {path: partial(torch.save, content)}
    if path.suffix == ".pkl" and not own and layout != "full":
        content = {"model": _own_storage(weights), "__author__": "ofa", "matching_heuristics": True}
        return {path: partial(_dump_pickle, content)}
    raise CheckpointError(
        f"{path}: cannot write {path.suffix or 'a file without a suffix'}. Use .safetensors or .pth "
        "(also .pkl for --to official-vision)."
    )


def write(
    path: str | Path,
    converted: Conversion,
    shard_size: int | None = None,
    progress: Progress | None = None,
    beside: Mapping[Path, str] | None = None,
) -> None:
    """Write weights atomically: `.safetensors`, `.pth` or `.pt` (torch), `.pkl` (official pickle).

    Weights of more than `shard_size` bytes become NAME-00001-of-0000N.safetensors and so on, with
    NAME.safetensors.index.json. `progress` gets the bytes written so far, and those of all tensors.
    `beside` are texts of further files, which get their names together with the weights, the last one
    of them last.

    Raises:
        CheckpointError: for another suffix, or a full disk.
    """
    path = Path(path)
    plan = _plan(path, converted, shard_size)
    files = plan | {file: partial(_dump_text, text) for file, text in (beside or {}).items()}
    total = sum(value.nbytes for value in converted.weights.values())
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(min(done, total), total)

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_files(list(files)) as temporaries:
            for temporary, dump in zip(temporaries, files.values(), strict=True):
                with temporary.open("wb") as file:
                    dump(_Counted(file, report))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error}).") from None
    if path not in plan:
        path.unlink(missing_ok=True)  # an old single file would hide the shards
