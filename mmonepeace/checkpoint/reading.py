"""Reading untrusted checkpoints: no code in a file is ever run, tensors stay on disk until used."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from mmonepeace.checkpoint.errors import (
    CheckpointError,
    StateDict,
    explain_broken_file,
    prefix_errors,
)
from mmonepeace.checkpoint.finding import find
from mmonepeace.checkpoint.integrity import (
    CHECKSUMS,
    check_tensors,
    hash_of_rest,
    verify_checksums,
)
from mmonepeace.checkpoint.torch_files import read_torch, verify_archive
from mmonepeace.checkpoint.training_state import find_beside, read_run
from mmonepeace.checkpoint.unpickling import OtherTensor, tensors_of

_MAX_INDEX = 2**26  # bytes; the largest models of all have an index of 1 MB
# What wrappers put in front of all names of a state dict: DataParallel, Lightning, torch.compile.
_WRAPPERS = ("module.", "model.", "_orig_mod.")


def _read_safetensors(path: Path, verify: bool) -> tuple[StateDict, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # mapped: the tensors stay on disk until they are used
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        meta = file.metadata() or {}
    strange = [key for key, text in meta.items() if text.startswith('{"tensors":')]
    if strange not in ([], [CHECKSUMS]):
        raise CheckpointError(f"its metadata have {strange[0]!r} for {CHECKSUMS!r}: damaged.")
    stored = meta.pop(CHECKSUMS, None)
    if stored is not None and verify:
        expected = json.loads(stored)
        crcs = {f"weights.{name}": crc for name, crc in expected["tensors"].items()}
        verify_checksums({"weights": weights, "meta": meta}, {**expected, "tensors": crcs})
    return weights, meta


def _read_index(path: Path, verify: bool) -> tuple[StateDict, dict[str, Any]]:
    if path.stat().st_size > _MAX_INDEX:
        raise CheckpointError(f"is larger than {_MAX_INDEX:,} bytes: not an index of shards.")
    index = json.loads(path.read_bytes())
    shard_of = index["weight_map"]
    if strange := sorted(set(index) - {"weight_map", "metadata"}):
        raise CheckpointError(f"has {strange[0]!r} besides weight_map and metadata: damaged.")
    meta = dict(index.get("metadata") or {})
    stored = meta.pop(CHECKSUMS, None)
    if any(
        isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in meta.values()
    ):
        raise CheckpointError(
            f"its metadata have no {CHECKSUMS!r}, but something like it: damaged."
        )
    if stored is not None and stored != hash_of_index(shard_of, meta):
        raise CheckpointError("its names or metadata do not match their checksum: damaged.")
    shards: dict[str, StateDict] = {}
    for name in sorted(set(shard_of.values())):
        shard = find_beside(path, name, ".safetensors")
        with prefix_errors(name):
            shards[name], _ = _read_safetensors(shard, verify)
    for key, name in shard_of.items():
        if key not in shards[name]:
            raise CheckpointError(f"{key} is not in {name}, where the index says.")
    meta.pop("total_size", None)
    return {key: shards[name][key] for key, name in shard_of.items()}, meta


def hash_of_index(shard_of: Mapping[str, str], meta: Mapping[str, Any]) -> str:
    """Checksum of the index of shards: which shard has which tensor, and the metadata."""
    return hash_of_rest({"weight_map": shard_of, "metadata": meta})


def _read_content(path: Path, verified: str = "", verify: bool = True) -> Any:
    """Content of a torch file or pickle, less its checksums, which are right, unless `verify` is False.

    With checksums of ours, only those of tensors whose names begin with `verified` are computed.
    """
    content = read_torch(path)
    if not isinstance(content, Mapping) or CHECKSUMS not in content:
        if verify:
            verify_archive(path)
        return content
    content = dict(content)
    stored = content.pop(CHECKSUMS)
    if verify:
        verify_checksums(content, stored, verified)
    return content


def is_safetensors(path: Path) -> bool:
    """Whether a file is in the safetensors format, whatever its name."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _unwrap(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights without the prefixes that wrappers of a model put in front of all names."""
    prefix = ""
    names = list(weights)
    while start := next((w for w in _WRAPPERS if all(n.startswith(prefix + w) for n in names)), ""):
        prefix += start
    return {name[len(prefix) :]: value for name, value in weights.items()}


def _meta_of(content: Mapping[str, Any]) -> dict[str, Any]:
    meta = content.get("meta")
    items = meta.items() if isinstance(meta, Mapping) else ()
    return {key: value for key, value in items if isinstance(key, str)}


def _read_any(path: Path, verify: bool = True) -> tuple[Any, dict[str, Any]]:
    """Content and metadata of a file of any format."""
    if path.suffix == ".json":
        return _read_index(path, verify)
    if is_safetensors(path):
        return _read_safetensors(path, verify)
    content = _read_content(path, "state_dict.", verify)
    items = content.items() if isinstance(content, Mapping) else ()
    nested = {key: value for key, value in items if isinstance(value, Mapping)}
    meta = _meta_of(nested)
    if "cfg" in nested:  # of fairseq, for the way back
        with suppress(TypeError, ValueError, RecursionError):
            meta["official_cfg"] = json.dumps(nested["cfg"])
    return nested.get("model", nested.get("state_dict", content)), meta


def read_content(path: Path) -> Any:
    """Read all that a file of any format holds: for safetensors, `state_dict` and `meta`.

    Raises:
        CheckpointError: in one line, as `read`.
    """
    with prefix_errors(path), explain_broken_file("a checkpoint"):
        if not path.is_file():
            raise CheckpointError("no such file.")
        if path.suffix == ".json" or is_safetensors(path):
            weights, meta = _read_any(path)
            return {"state_dict": weights, "meta": meta}
        content = _read_content(path)
        check_tensors(tensors_of(content))
        return content


def read(path: str | Path) -> tuple[StateDict, dict[str, Any]]:
    """Read the weights of a checkpoint without running code from it.

    Args:
        path: safetensors, also in shards (its own name or that of the index), or a torch file (also
            with a fairseq, mmcv or detectron2 configuration inside): a tensor takes memory when it
            is used, not before. Or the raw pickle of the official vision branch, or the folder of a
            sharded checkpoint: these are read into memory. Or a folder with one of them, see `find`.

    Returns:
        state dict on the CPU with the names of the file, less prefixes that all of them have
        (`module.`, `model.`, `_orig_mod.`), and its metadata (empty if none), which has the
        configuration of a fairseq file as JSON under `official_cfg`.

        All bytes of a file are compared with its checksums, those of mmonepeace or of the archive
        that torch writes, at 2 GB/s for each processor, or the speed of the disk.

    Raises:
        CheckpointError: in one line, if it is missing, truncated, damaged, malicious, without
            weights, or has weights of a kind that is not stored number by number.
    """
    path = find(path)
    if path.is_dir():
        content = read_run(path)
        return _unwrap(content["state_dict"]), _meta_of(content)
    return _read_weights(path, verify=True)


def names_of(path: str | Path) -> list[str]:
    """The names of the weights that `read` gives, of a file that nothing but its directory is read of.

    Nothing is compared with checksums: they tell what to read a file with, which then does. Raises a
    CheckpointError as `read`.
    """
    path = find(path)
    if path.is_dir():
        content = read_run(path, take=lambda parts: parts[0], verify=False)
        return list(_unwrap(content["state_dict"]))
    return list(_read_weights(path, verify=False)[0])


def _read_weights(path: Path, verify: bool) -> tuple[StateDict, dict[str, Any]]:
    with prefix_errors(path):
        with explain_broken_file("a checkpoint"):
            content, meta = _read_any(path, verify)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"contains a {type(content).__name__}, not a state dict.")
        tensors = {
            k: v
            for k, v in content.items()
            if isinstance(k, str) and isinstance(v, Tensor | OtherTensor)
        }
        if not tensors:
            raise CheckpointError("contains no tensors, so it is not a checkpoint of a model.")
        check_tensors(tensors)
        return _unwrap(tensors), meta
