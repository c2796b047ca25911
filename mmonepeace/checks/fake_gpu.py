"""A training step on CUDA tensors without numbers, on machines with and without a GPU."""

import heapq
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

_BACKWARD = 1  # number of a backward pass, for activation checkpointing


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """As one process of several with a GPU each.

    `torch.autocast("cuda")` works, which turns itself off where there is no GPU; batch norm takes a single
    value, since it is synchronised with others in a run.
    """
    with ExitStack() as stack:
        with suppress(ImportError):  # mmcv may be absent, or without operators
            from mmcv.ops import multi_scale_deform_attn

            stack.enter_context(patch.object(multi_scale_deform_attn, "ext_module", _Deform))
        for owner, name, value in (
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.nn.functional, "_verify_batch_size", lambda _: None),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        ):
            stack.enter_context(patch.object(owner, name, value))
        yield


class _Deform:
    """The shapes of mmcv's operator of deformable attention, which PyTorch does not know."""

    @staticmethod
    def ms_deform_attn_forward(value_BKHd: Tensor, *inputs: Tensor, **_: Any) -> Tensor:
        points_BQHSP2 = inputs[2]
        return value_BKHd.new_empty(*points_BQHSP2.shape[:2], value_BKHd[0, 0].numel())

    @staticmethod
    def ms_deform_attn_backward(*_: Tensor, **__: Any) -> None:
        """Gradients are written to tensors that are there."""


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """`loss.backward()` of fake CUDA tensors, in Python.

    PyTorch's engine asks the driver for streams, and there may be none. Nodes are computed in the order of
    the engine, the latest of the forward pass first, and freed when they are done, so that memory is that
    of the engine too, if nothing else refers to the graph: the loss is detached. Hooks of tensors are not
    called.
    """
    root = loss.grad_fn
    if root is None:
        raise RuntimeError("the loss does not depend on what is trained")
    waiting = _dependencies(root)
    gradients: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(loss)]}
    number = count()
    ready = [(0, next(number), root)]
    del root
    loss.detach_()  # or it would keep all nodes
    # Activation checkpointing recomputes a block once for each number.
    with patch.object(torch._C, "_current_graph_task_id", lambda: _BACKWARD):
        while ready:
            _, _, node = heapq.heappop(ready)
            inputs = gradients.pop(node)
            edges = node.next_functions
            # Of functions in Python, `apply` is their own backward pass.
            run: Any = (
                node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
            )
            outputs = run(*inputs) if any(x is not None for x in inputs) else None
            outputs = outputs if isinstance(outputs, tuple) else (outputs,) * max(1, len(edges))
            del inputs, run, node
            successor = None
            for i, (successor, position) in enumerate(edges):
                if successor is None:
                    continue
                if (gradient := outputs[i]) is not None:
                    _add(gradients, successor, position, gradient)
                waiting[successor] -= 1
                if not waiting[successor]:
                    del waiting[successor]
                    gradients.setdefault(successor, [None] * len(successor._input_metadata))
                    first = -_sequence_number(successor)
                    heapq.heappush(ready, (first, next(number), successor))
            gradient = None
            del outputs, edges, successor


def _sequence_number(node: Any) -> int:
    # As in the engine, gradients of parameters are added up first.
    return 2**63 if node.name().endswith("AccumulateGrad") else node._sequence_nr()


def _dependencies(root: Any) -> dict[Any, int]:
    """How many nodes of a graph give each node a gradient."""
    found: dict[Any, int] = {}
    seen, left = {root}, [root]
    while left:
        for successor, _ in left.pop().next_functions:
            if successor is not None:
                found[successor] = found.get(successor, 0) + 1
                if successor not in seen:
                    seen.add(successor)
                    left.append(successor)
    return found


def _add(gradients: dict[Any, Any], node: Any, position: int, value: Tensor) -> None:
    """Add a gradient to those of a node, in the shape and dtype of what it is the gradient of."""
    wanted = node._input_metadata[position]
    if value.shape != tuple(wanted.shape):
        value = value.sum_to_size(tuple(wanted.shape))
    if value.dtype != wanted.dtype:
        value = value.to(wanted.dtype)
    inputs = gradients.setdefault(node, [None] * len(node._input_metadata))
    before = inputs[position]
    inputs[position] = value if before is None else before + value
