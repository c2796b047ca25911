"""The second half of a gated FFN on a CPU, by pieces that stay in the cache.

Shapes: N tokens, F FFN width, D width.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.spec import LAYER_NORM_EPS

_PIECE_NUMBERS = 1 << 19  # of one operand: a few of them fit into the cache
_aten = torch.ops.aten


def gated_linear(
    gate: Tensor,
    up: Tensor,
    norm: tuple[Tensor, Tensor] | None,
    down: tuple[Tensor, Tensor],
) -> Tensor:
    """linear(layer_norm(gelu(gate) * up)). Differentiable once; keeps its inputs alone for that.

    Args:
        gate: (..., F).
        up: the same.
        norm: weight and bias of the LayerNorm, (F,) each; None leaves it out.
        down: weight (D, F) and bias (D,) of the linear layer.

    Returns:
        (..., D).
    """
    found = _GatedLinear.apply(
        gate.flatten(0, -2), up.flatten(0, -2), *(norm or (None,) * 2), *down
    )
    return found.unflatten(0, gate.shape[:-1])


def _pieces(x_NF: Tensor) -> Iterator[slice]:
    """Rows that are done at once."""
    rows = max(1, _PIECE_NUMBERS // x_NF.shape[1])
    return (slice(start, start + rows) for start in range(0, len(x_NF), rows))


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(gate, up, norm_weight, norm_bias, weight)
        hidden = torch.empty_like(gate)
        for rows in _pieces(gate):
            part = _aten.gelu.out(gate[rows], out=hidden[rows]).mul_(up[rows])
            if norm_weight is not None:
                normal = F.layer_norm(part, part.shape[1:], norm_weight, norm_bias, LAYER_NORM_EPS)
                part.copy_(normal)
        return F.linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, norm_weight, norm_bias, weight = ctx.saved_tensors
        hidden, dgate, dup = torch.empty_like(gate), torch.empty_like(gate), gradient_ND @ weight
        dnorm = None if norm_weight is None else torch.zeros(2, len(norm_weight), dtype=gate.dtype)
        for rows in _pieces(gate):
            gelu = F.gelu(gate[rows])
            product = torch.mul(gelu, up[rows], out=hidden[rows])
            dproduct = dup[rows]
            if dnorm is not None:
                shape = product.shape[1:]
                normal, *moments = torch.native_layer_norm(
                    product, shape, norm_weight, norm_bias, LAYER_NORM_EPS
                )
                dproduct, *found = _aten.native_layer_norm_backward(
                    dproduct, product, shape, *moments, norm_weight, norm_bias, (True,) * 3
                )
                dnorm += torch.stack(found)
                product.copy_(normal)
            _aten.gelu_backward.grad_input(dproduct * up[rows], gate[rows], grad_input=dgate[rows])
            torch.mul(dproduct, gelu, out=dup[rows])
        dweight = gradient_ND.T @ hidden if ctx.needs_input_grad[4] else None
        return (
            dgate,
            dup,
            *(dnorm if dnorm is not None else (None, None)),
            dweight,
            gradient_ND.sum(0),
        )
