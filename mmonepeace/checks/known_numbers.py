"""Sizes of maps that a model computes with as tensors, among tensors without numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

_MOST = 64  # elements of a tensor whose numbers are known


class KnownNumbers(TorchDispatchMode):
    """Follows the numbers of small fake tensors that are made of sizes alone.

    Deformable attention of mmcv takes the sizes of its maps as a tensor, and splits tokens by them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._real: Any = WeakTensorKeyDictionary()

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Inside, these numbers are known."""
        with self, patch.object(torch, "_shape_as_tensor", self._shape):
            yield

    def _shape(self, x: Tensor) -> Tensor:
        size = x.new_empty(x.ndim, dtype=torch.int64, device="cpu")
        with unset_fake_temporarily():
            self._real[size] = torch.tensor([*x.shape])
        return size

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator, with numbers too if those of all its tensors are known."""
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = bool(inputs) and all(x in self._real for x in inputs)
        if known and func is torch.ops.aten._local_scalar_dense.default:
            with unset_fake_temporarily():
                return self._real[args[0]].item()
        out = func(*args, **kwargs)
        if known:
            self._compute(func, args, kwargs, out)
        return out

    def _compute(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        made = out if isinstance(out, list | tuple) else [out]
        if not all(isinstance(x, Tensor) and x.numel() <= _MOST for x in made):
            return
        here = {key: x for key, x in kwargs.items() if key not in ("device", "pin_memory")}
        with unset_fake_temporarily():
            args, here = tree_map_only(Tensor, lambda x: self._real[x], (args, here))
            found = func(*args, **here)
        self._real.update(
            zip(made, found if isinstance(out, list | tuple) else [found], strict=True)
        )
