"""Gathering rows across the ranks of a distributed run, with or without gradient."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

Gather = Literal["official", "full"]


class _GatherWithGradient(torch.autograd.Function):
    """Rows of all processes; the gradient of each row is the sum of all processes' gradients."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return _gathered(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def is_distributed() -> bool:
    """Whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def _gathered(x: Tensor) -> Tensor:
    everyone = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, x.contiguous())
    return torch.cat(everyone)


def gather(x: Tensor, how: Gather = "official") -> Tensor:
    """Rows of all processes, in the order of their ranks; each process has equally many.

    Args:
        x: rows of this process.
        how: "official", without gradient, the own rows included; "full", with it. Averaged over
            processes, as data parallel training does, the latter is the gradient of the loss over
            the global batch.
    """
    if how == "official":
        x = x.detach()
    if not is_distributed():
        return x
    return _GatherWithGradient.apply(x) if x.requires_grad else _gathered(x)


def gather_uneven(x: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes without gradient, in the order of their ranks, and how many come before.

    Args:
        x: (rows, width) of this process; each process may have another number of rows.

    Returns:
        the rows, and the index of the first row of this process.
    """
    x = x.detach()
    if not is_distributed():
        return x, 0
    sizes = _gathered(torch.tensor([len(x)], device=x.device)).tolist()
    padded = x.new_zeros(max(sizes), x.shape[1])
    padded[: len(x)] = x
    chunks = _gathered(padded).split(max(sizes)) if max(sizes) else [x] * len(sizes)
    rows = torch.cat([chunk[:size] for chunk, size in zip(chunks, sizes, strict=True)])
    return rows, sum(sizes[: dist.get_rank()])


def mean_over_processes(number: int, device: torch.device) -> float:
    """The mean of a number over all processes."""
    if not is_distributed():
        return number
    total = torch.tensor(number, device=device, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()
