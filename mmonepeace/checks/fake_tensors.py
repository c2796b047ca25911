"""Models and batches as tensors without numbers, on any device."""

from collections.abc import Callable
from typing import Any

import torch
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

    return mapped(value, fake)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(x, change) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(x, change) for x in value)
    if hasattr(value, "all_items"):  # a data element of MMEngine
        for key, x in list(value.items()):
            value.set_field(mapped(x, change), key)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Tensors in a batch, at any depth."""
    found: list[Tensor] = []
    mapped(value, lambda x: found.append(x) or x)  # type: ignore[func-returns-value]
    return found
