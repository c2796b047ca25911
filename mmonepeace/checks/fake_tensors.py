"""Models and batches of tensors without numbers, and what a loss takes from numbers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode


def to_device(model: Any, device: str) -> Any:
    """A model on the meta device, of fake tensors."""
    made: dict[int, Any] = {}  # what modules share stays shared

    def empty(x: Tensor) -> Any:
        if id(x) not in made:
            y = torch.empty_like(x, device=device)
            made[id(x)] = (
                nn.Parameter(y, x.requires_grad) if isinstance(x, nn.Parameter) else y,
                x,  # which keeps its number
            )
        return made[id(x)][0]

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for key, x in own.items():
                if x is not None:
                    own[key] = empty(x)
    return model


def to_fake(value: Any, mode: FakeTensorMode, device: str) -> Any:
    """Tensors in a batch, at any depth, as fake ones on a device."""

    def fake(x: Tensor) -> Tensor:
        return torch.empty_like(mode.from_tensor(x), device=device)

    return _mapped(value, fake)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(x, change) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(x, change) for x in value)
    if hasattr(value, "all_items"):  # a data element of MMEngine
        for key, x in list(value.items()):
            value.set_field(_mapped(x, change), key)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Tensors in a batch, at any depth."""
    found: list[Tensor] = []
    _mapped(value, lambda x: found.append(x) or x)  # type: ignore[func-returns-value]
    return found


def counts_of(model: BaseModel, batch: dict[str, Any]) -> dict[tuple[int, ...], int]:
    """Of a segmentor that matches queries with classes: shapes -> counts, for `LiveMemory`.

    Args:
        model: any one; other models have no counts.
        batch: with numbers.
    """
    head: Any = getattr(model, "decode_head", None)
    if not hasattr(head, "assigner") or "data_samples" not in batch:
        return {}
    labels = [sample.gt_sem_seg.data for sample in batch["data_samples"]]
    found = [x.unique() for x in labels]
    count = max(len(x[x != head.ignore_index]) for x in found)
    queries = head.num_queries
    batched = {(len(labels), queries): len(labels) * count}
    return {tuple(labels[0].shape): count, (queries,): count, **batched}


@contextmanager
def matched_in_order(model: BaseModel) -> Iterator[None]:
    """Match the first query with the first class, and so on: SciPy matches numbers, and there are none.

    How many are matched, which memory depends on, is the same.
    """
    assigner = getattr(getattr(model, "decode_head", None), "assigner", None)
    module = sys.modules.get(type(assigner).__module__)
    if not hasattr(module, "linear_sum_assignment"):
        yield
        return

    def match(cost: Tensor) -> tuple[np.ndarray, np.ndarray]:
        first = np.arange(min(cost.shape))
        return first, first

    with patch.object(module, "linear_sum_assignment", match):
        yield
