"""What is timed: runs of models, and the number of operations in them."""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

Run = Callable[[], object]

aten = torch.ops.aten
for unknown, known in {  # to the counter of operations
    aten.addmm_: aten.addmm,
    aten.baddbmm_: aten.baddbmm,
    aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        aten._scaled_dot_product_flash_attention_backward
    ),
}.items():
    register_flop_formula(unknown, get_raw=True)(flop_registry[known])


def seconds(run: Run, device: str) -> float:
    """Of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def is_fast(dtype: torch.dtype, device: str) -> bool:
    """Whether the machine multiplies matrices of a dtype at least as fast as float32."""
    # oneDNN multiplies small matrices with one thread.
    large, taken = torch.randn(1536, 1536, device=device), []
    for kind in (torch.float32, dtype):
        a = large.to(kind)
        a @ a
        taken.append(min(seconds(lambda a=a: a @ a, device) for _ in range(3)))
    return taken[1] <= taken[0]


class Built(NamedTuple):
    """What is ready to run.

    Attributes:
        run: once.
        operations: of a run, or what counts them; None where they are not counted.
        dtype: of the products.
    """

    run: Run
    operations: float | Callable[[], float] | None = None
    dtype: torch.dtype = torch.float32


Way = Callable[[argparse.Namespace], Built | None]


def dense_operations(model: nn.Module, prefixes: tuple[str, ...] = ("",)) -> int:
    """Operations of the linear layers of a model for one token."""
    return sum(
        2 * module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(prefixes)
    )


def attention_operations(depth: int, dim: int, tokens: int) -> int:
    """Operations of q k^T and of weights times values for one sequence."""
    return 4 * depth * dim * tokens**2


def operations_of(call: Callable[..., Any], *inputs: Any) -> int:
    """Operations of the products, convolutions and attention that a call computes."""
    with FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops()


def backward_of(model: nn.Module, images: Tensor) -> Run:
    """A step without the optimiser; gradients are there before it, as in all steps but the first."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0)

    def run() -> None:
        model.zero_grad(set_to_none=False)
        out = model(images)
        (out[0] if isinstance(out, (tuple, list)) else out).square().mean().backward()

    return run


def inference_of(model: nn.Module, *inputs: Any) -> Run:
    """A forward pass; not in inference mode, whose tensors transformers would cache for training."""
    return torch.no_grad()(lambda: model(*inputs))


def vit_run(
    model: nn.Module,
    stem: Callable[..., Any],
    images: Tensor,
    depth: int,
    dim: int,
    train: bool,
) -> Built:
    """A step or a forward pass of a vision transformer with patches of 16 px."""
    batch, _, height, width = images.shape
    tokens = (height // 16) * (width // 16) + 1
    operations = operations_of(stem, images) + batch * (
        tokens * dense_operations(model, ("layers", "blocks", "encoder"))
        + attention_operations(depth, dim, tokens)
    )
    model.train(train)  # mmseg's returns None
    if train:
        return Built(backward_of(model, images), 3 * operations, images.dtype)
    return Built(inference_of(model, images), operations, images.dtype)
