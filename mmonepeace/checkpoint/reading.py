"""Reading untrusted checkpoints: no code in a file is ever run, tensors stay on disk until used."""

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmonepeace.checkpoint.errors import (
    CheckpointError,
    StateDict,
    explain_broken_file,
    prefix_errors,
)
from mmonepeace.checkpoint.training_state import find_beside, read_run

# Packages of classes in official files whose content is not needed: replaced by inert stand-ins.
_INERT_PACKAGES = {
    "argparse", "collections", "datetime", "detectron2", "enum", "fairseq", "fvcore", "mmcv",
    "mmengine", "numpy", "omegaconf", "one_peace", "pathlib", "typing", "yacs",
}  # fmt: skip
_INERT_BUILTINS = {
    "set", "frozenset", "bytearray", "complex", "slice", "range", "list", "dict", "getattr",
}  # fmt: skip


class _Inert:
    """Stand-in for an unknown class: accepts everything, does nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...
    def __setstate__(self, _state: Any) -> None: ...
    def __setitem__(self, _key: Any, _value: Any) -> None: ...
    def append(self, _item: Any) -> None: ...
    def extend(self, _items: Any) -> None: ...


def _load_storage(data: bytes) -> Any:
    """What raw pickles call with the bytes of a tensor, restricted to weights."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _Memo(dict[int, Any]):
    """Objects that a pickle may refer to again, without the bytes of tensors: held twice otherwise."""

    def __setitem__(self, index: int, value: Any) -> None:
        items = value if isinstance(value, tuple) else (value,)
        has_bytes = any(isinstance(item, bytes) for item in items)
        super().__setitem__(index, None if has_bytes else value)


# The base class is the one in Python: the memo of the one in C cannot be replaced.
class _RestrictedUnpickler(pickle._Unpickler):
    """Unpickler that knows tensors and containers, and calls nothing else."""

    _ALLOWED: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        ("torch.storage", "_load_from_bytes"): _load_storage,
        ("torch", "Size"): torch.Size,
        ("_codecs", "encode"): _Inert,  # part of a NumPy number
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.memo = _Memo()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._ALLOWED:
            return self._ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module == "torch" and name.endswith("Storage")) or (
            module == "torch.storage" and name in ("TypedStorage", "UntypedStorage")
        ):
            return getattr(torch, name, None) or getattr(torch.storage, name)
        package = module.split(".")[0]
        if package in _INERT_PACKAGES or (
            package in ("builtins", "__builtin__") and name in _INERT_BUILTINS
        ):
            return _Inert
        raise CheckpointError(
            f"refused: the file calls {module}.{name}, which does not belong in a checkpoint. "
            "Nothing was executed."
        )


class _RestrictedPickle:
    """The interface of the pickle module that `torch.load` expects."""

    Unpickler = _RestrictedUnpickler

    @staticmethod
    def load(file: Any, **_kwargs: Any) -> Any:
        return _RestrictedUnpickler(file).load()


def _read_object(path: Path) -> Any:
    load = partial(torch.load, path, map_location="cpu")
    with path.open("rb") as file:
        if file.read(2) == b"PK":  # a torch file: the tensors stay on disk until they are used
            try:
                return load(weights_only=True, mmap=True)
            except pickle.UnpicklingError:
                return load(weights_only=False, mmap=True, pickle_module=_RestrictedPickle)
        file.seek(0)
        content = _RestrictedUnpickler(file).load()
    if isinstance(content, int):  # the magic number of torch files before 1.6
        return load(weights_only=False, pickle_module=_RestrictedPickle)
    return content


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # mapped: the tensors stay on disk until they are used
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118


def index_of(path: Path) -> Path:
    """The file that names the shards of a safetensors file (the Hugging Face convention)."""
    return path.with_name(f"{path.name}.index.json")


def _read_index(path: Path) -> tuple[StateDict, dict[str, Any]]:
    index = json.loads(path.read_bytes())
    shard_of = index["weight_map"]
    shards: dict[str, StateDict] = {}
    for name in sorted(set(shard_of.values())):
        shard = find_beside(path, name, ".safetensors")
        with prefix_errors(name):
            shards[name], _ = _read_safetensors(shard)
    meta = dict(index.get("metadata") or {})
    meta.pop("total_size", None)
    return {key: shards[name][key] for key, name in shard_of.items()}, meta


def _read_any(path: Path) -> tuple[Any, dict[str, Any]]:
    """Content and metadata of a file of any format."""
    if path.suffix == ".json":
        return _read_index(path)
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _read_safetensors(path)
    content = _read_object(path)
    items = content.items() if isinstance(content, Mapping) else ()
    nested = {key: value for key, value in items if isinstance(value, Mapping)}
    meta = dict(nested.get("meta", {}))
    if "cfg" in nested:  # of fairseq, for the way back
        with suppress(TypeError, ValueError, RecursionError):
            meta["official_cfg"] = json.dumps(nested["cfg"])
    return nested.get("model", nested.get("state_dict", content)), meta


def read(path: str | Path) -> tuple[StateDict, dict[str, Any]]:
    """Read the weights of a checkpoint without running code from it.

    Args:
        path: safetensors, also in shards (its own name or that of the index), or a torch file (also
            with a fairseq, mmcv or detectron2 configuration inside): a tensor takes memory when it
            is used, not before. Or the raw pickle of the official vision branch, or the folder of a
            sharded checkpoint: these are read into memory.

    Returns:
        state dict on the CPU with the names of the file, and its metadata (empty if none), which
        has the configuration of a fairseq file as JSON under `official_cfg`.

    Raises:
        CheckpointError: in one line, if it is missing, truncated, malicious or without weights.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and not path.exists() and index_of(path).is_file():
        path = index_of(path)
    if path.is_dir():
        content = read_run(path)
        return content["state_dict"], dict(content.get("meta") or {})
    with prefix_errors(path):
        if not path.is_file():
            raise CheckpointError("no such file.")
        with explain_broken_file("a checkpoint"):
            content, meta = _read_any(path)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"contains a {type(content).__name__}, not a state dict.")
        weights = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if not weights:
            raise CheckpointError("contains no tensors, so it is not a checkpoint of a model.")
        return weights, meta
