"""The pickles inside checkpoints, read without running code: tensors, numbers, texts, containers.

Whatever else a file mentions becomes an inert stand-in or is refused. Only classes and functions of
this file and of Python's containers are ever called.
"""

import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError

# Packages of classes in official files whose content is not needed: replaced by inert stand-ins.
_INERT_PACKAGES = {
    "argparse", "collections", "datetime", "detectron2", "enum", "fairseq", "fvcore", "mmcv",
    "mmengine", "numpy", "omegaconf", "one_peace", "pathlib", "typing", "yacs",
}  # fmt: skip
_INERT_BUILTINS = {"slice", "range", "bytearray", "list", "dict", "getattr"}
_MAX_DEPTH = 64  # of nested containers; those of real files are about 10 deep
_MAX_ITEMS = 10_000_000  # of all containers

_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8, "QUInt8Storage": torch.uint8, "QInt32Storage": torch.int32,
}  # fmt: skip
# Functions that rebuild tensors of other kinds than weights are stored as.
_OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor on the meta device, without values",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_wrapper_subclass": "a tensor of a special class",
}


class StorageType(NamedTuple):
    """What a file calls a storage class."""

    dtype: torch.dtype


class Storage(NamedTuple):
    """The numbers of one or more tensors."""

    data: torch.UntypedStorage
    dtype: torch.dtype


class Inert:
    """Stand-in for an unknown class: accepts everything, does nothing."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...
    def __setstate__(self, _state: Any) -> None: ...
    def __setitem__(self, _key: Any, _value: Any) -> None: ...
    def append(self, _item: Any) -> None: ...
    def extend(self, _items: Any) -> None: ...


class OtherTensor(Inert):
    """Stand-in for a tensor of a kind that weights are not stored as."""

    kind = "a tensor of a special class"


class History:
    """What a file says of MMEngine's `HistoryBuffer`: logged values, and how many each stands for."""

    def __init__(self, *_args: Any) -> None:
        self.data: list[Any] = [np.zeros(0), np.zeros(0)]

    def __setstate__(self, state: Any) -> None:
        self.data = [state["_log_history"], state["_count_history"]]


class _DefaultDict(dict[Any, Any]):
    """A `defaultdict` without its function."""

    def __init__(self, _function: Any = None, *items: Any) -> None:
        super().__init__(*items)


class _NumpyType:
    """NumPy's dtype, of plain numbers only."""

    def __init__(self, code: Any = "", *_args: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def read(self, data: Any) -> Any:
        """The numbers in some bytes, or a stand-in if they are not plain numbers."""
        if not re.fullmatch("[biufc][0-9]{1,2}", self.code) or not isinstance(data, bytes):
            return Inert()
        dtype = np.dtype(f"{self.order}{self.code}")
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))


class _NumpyArray:
    def __init__(self, *_args: Any) -> None:
        self.value: Any = Inert()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, in_columns, data = state
        value = dtype.read(data)
        if isinstance(value, np.ndarray):
            value = value.reshape(shape, order="F" if in_columns else "C")
        self.value = value


def _numpy_number(dtype: _NumpyType, data: Any) -> Any:
    value = dtype.read(data)
    return value.item() if isinstance(value, np.ndarray) else value


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How old pickles store bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"bytes are encoded as {encoding!r}, not as latin1.")
    return text.encode("latin1")


def _rebuild_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_more: Any
) -> Tensor:
    return _view(storage, offset, size, stride, storage.dtype)


def _rebuild_tensor_v3(
    storage: Storage, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any,
    *_more: Any,
) -> Tensor:  # fmt: skip
    return _view(storage, offset, size, stride, dtype)


def _view(storage: Storage, offset: int, size: Any, stride: Any, dtype: torch.dtype) -> Tensor:
    """A tensor in a storage, which must have all of it: torch does not check everything."""
    numbers = [offset, *size, *stride]
    if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise CheckpointError(f"a tensor has size {size}, stride {stride}, offset {offset}.")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = storage.data.nbytes() // dtype.itemsize
    if 0 not in size and last >= count:
        raise CheckpointError(
            f"a tensor of size {tuple(size)} reaches beyond the {count} numbers stored for it."
        )
    return torch.empty(0, dtype=dtype).set_(storage.data, offset, tuple(size), tuple(stride))


def _rebuild_of_class(function: Callable[..., Tensor], _class: Any, args: Any, _state: Any) -> Any:
    return function(*args)


class _Memo(dict[int, Any]):
    """Objects that a pickle may refer to again, without the bytes of tensors: held twice otherwise."""

    def __setitem__(self, index: int, value: Any) -> None:
        items = value if isinstance(value, tuple) else (value,)
        has_bytes = any(isinstance(item, bytes) and len(item) > 4096 for item in items)
        super().__setitem__(index, None if has_bytes else value)


# The base class is the one in Python: the memo of the one in C cannot be replaced.
class Unpickler(pickle._Unpickler):
    """Unpickler that knows tensors and containers, and calls nothing else.

    Args:
        file: an open file, at the start of a pickle.
        find_storage: gives the storage that a persistent identifier of torch stands for.
        load_bytes: gives the storage in the bytes of a torch file inside a raw pickle.
    """

    def __init__(
        self,
        file: Any,
        find_storage: Callable[[Any], Any] | None = None,
        load_bytes: Callable[[bytes], Any] = Inert,
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.memo = _Memo()
        self._find_storage = find_storage
        self._known = {**_KNOWN, ("torch.storage", "_load_from_bytes"): load_bytes}

    def persistent_load(self, identifier: Any) -> Any:
        """The storage that a file refers to."""
        if self._find_storage is None:
            raise CheckpointError("refers to data outside the file.")
        return self._find_storage(identifier)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function of the file.

        Raises:
            CheckpointError: if it does not belong in a checkpoint.
        """
        if (known := self._known.get((module, name))) is not None:
            return known
        if module in ("torch", "torch.storage", "torch.cuda") and name in _STORAGES:
            return StorageType(_STORAGES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "torch._utils" and name in _OTHER_TENSORS:
            return type("OtherTensor", (OtherTensor,), {"kind": _OTHER_TENSORS[name]})
        package = module.split(".")[0]
        if package in ("numpy", "mmengine"):  # they have moved between versions
            if package == "numpy" and name in _NUMPY:
                return _NUMPY[name]
            if name == "HistoryBuffer":
                return History
        if package in _INERT_PACKAGES or (
            package in ("builtins", "__builtin__") and name in _INERT_BUILTINS
        ):
            return Inert
        if package == "torch" and (
            name in ("device", "_get_layout")
            or isinstance(getattr(torch, name, None), torch.qscheme)
        ):
            return Inert
        raise CheckpointError(
            f"refused: the file calls {module}.{name}, which does not belong in a checkpoint. "
            "Nothing was executed."
        )

    def _load_build(self) -> None:
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(target, Inert | History | _NumpyArray | _NumpyType):
            target.__setstate__(state)
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            vars(target).update(state)  # versions of modules, see torch's state_dict
        elif not isinstance(target, Tensor | torch.dtype):
            raise CheckpointError(f"sets the state of {type(target).__name__}; damaged.")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: _load_build,
    }


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("collections", "defaultdict"): _DefaultDict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch.nn.parameter", "Parameter"): Inert,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_of_class,
    ("torch", "Tensor"): Inert,
    ("torch", "Size"): torch.Size,
    ("_codecs", "encode"): _encode,
    **{(m, n): t for m in ("builtins", "__builtin__")
       for n, t in (("set", set), ("frozenset", frozenset), ("complex", complex))},
}  # fmt: skip
_NUMPY: dict[str, Any] = {
    "dtype": _NumpyType,
    "_reconstruct": _NumpyArray,
    "scalar": _numpy_number,
    "ndarray": Inert,
}


def resolve(content: Any) -> Any:
    """Put NumPy's arrays in place of their stand-ins, and check how containers are nested.

    Containers are changed, not copied.

    Raises:
        CheckpointError: if they contain themselves, or are deeper or larger than any checkpoint's.
    """
    done: dict[int, tuple[Any, Any, int]] = {}
    path: set[int] = set()

    def visit(value: Any) -> tuple[Any, int]:
        """The value, and how many entries it has if what it refers to twice counts twice."""
        if isinstance(value, _NumpyArray):
            return value.value, 1
        if not isinstance(value, dict | list | tuple | History):
            return value, 1
        if id(value) in path or len(path) >= _MAX_DEPTH:
            raise CheckpointError(
                f"its containers are nested more than {_MAX_DEPTH} deep, or contain themselves."
            )
        if id(value) in done:
            return done[id(value)][1:]
        path.add(id(value))
        items: Any = value.data if isinstance(value, History) else value
        pairs = [visit(item) for item in (items.values() if isinstance(items, dict) else items)]
        size = 1 + sum(size for _, size in pairs)
        if size > _MAX_ITEMS:
            raise CheckpointError(f"has more than {_MAX_ITEMS:,} entries; damaged or hostile.")
        result = value
        if isinstance(items, dict):
            for key, (item, _) in zip(list(items), pairs, strict=True):
                items[key] = item
        elif isinstance(items, list):
            items[:] = [item for item, _ in pairs]
        elif type(items) is tuple:
            result = tuple([item for item, _ in pairs])
        path.remove(id(value))
        done[id(value)] = value, result, size  # the value too: its number must not be given again
        return result, size

    return visit(content)[0]


def leaves_of(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(Full name, value) of all that is in containers, and is none."""
    items: Any = None
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    if items is None:
        yield name, content
        return
    for key, value in items:
        yield from leaves_of(value, f"{name}.{key}" if name else str(key))


def tensors_of(content: Any) -> dict[str, Any]:
    """Full name -> tensor, or the stand-in of another kind of tensor, of all containers."""
    return {k: v for k, v in leaves_of(content) if isinstance(v, Tensor | OtherTensor)}
