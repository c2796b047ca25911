"""The gated FFN on a CPU, in cache-sized chunks.

Shapes: N tokens, F FFN width, D width.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.spec import LAYER_NORM_EPS

_CHUNK_NUMEL = 1 << 19  # of one operand of the gating: a few of them fit into the cache
_COLUMNS = 1024  # of a product with inner size D, which is slower when wider
# Tokens per chunk in inference, about: fewer make thin products; the hidden layer of more is memory
# that the C library returns to the system and requests again each time.
_TOKENS = 512
_aten = torch.ops.aten


class GatedWeights(NamedTuple):
    """Parameters of a gated FFN.

    Attributes:
        gate: (F, D).
        up: (F, D).
        norm: weight of the LayerNorm, (F,); None leaves it out.
        norm_bias: its bias, (F,), or None.
        down: (D, F).
        bias: of the last layer, (D,).
    """

    gate: Tensor
    up: Tensor
    norm: Tensor | None
    norm_bias: Tensor | None
    down: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> "GatedWeights":
        """Matrices and last bias in the dtype of products; the LayerNorm keeps its own."""
        names = ("gate", "up", "down", "bias")
        return self._replace(**{name: getattr(self, name).to(dtype) for name in names})


def chunked_geglu(x: Tensor, *weights: Tensor | None) -> Tensor:
    """down(layer_norm(gelu(gate x) * up x)), (..., D) -> (..., D), with the fields of `GatedWeights`.

    Products are computed in the dtype of x, to which matrices of another one are converted in both
    passes. Differentiable once; saves x, gate x and up x for the backward pass.
    """
    x_ND = x.flatten(0, -2)
    if torch.is_grad_enabled():
        out_ND = _ChunkedGeGLU.apply(x_ND, *weights)
    else:
        converted = GatedWeights._make(weights).to(x.dtype)
        chunks = x_ND.chunk(max(1, len(x_ND) // _TOKENS))
        out_ND = torch.cat([_forward(chunk, converted)[0] for chunk in chunks])
    return out_ND.view_as(x)


def _product(a_NK: Tensor, b_KF: Tensor) -> Tensor:
    """The matrix product a b, where F is wide and K is not."""
    out_NF = a_NK.new_empty(len(a_NK), b_KF.shape[1])
    for b, out in zip(b_KF.split(_COLUMNS, 1), out_NF.split(_COLUMNS, 1), strict=True):
        torch.mm(a_NK, b, out=out)
    return out_NF


def _chunks(x_NF: Tensor) -> Iterator[slice]:
    """Rows that are gated together."""
    rows = max(1, _CHUNK_NUMEL // x_NF.shape[1])
    return (slice(start, start + rows) for start in range(0, len(x_NF), rows))


def _forward(x_ND: Tensor, weights: GatedWeights) -> tuple[Tensor, Tensor, Tensor]:
    """The output, gate x and up x."""
    gate, up = _product(x_ND, weights.gate.T), _product(x_ND, weights.up.T)
    hidden = torch.empty_like(gate)
    for rows in _chunks(gate):
        chunk = _aten.gelu.out(gate[rows], out=hidden[rows]).mul_(up[rows])
        if weights.norm is not None:
            shape = chunk.shape[1:]
            chunk.copy_(F.layer_norm(chunk, shape, weights.norm, weights.norm_bias, LAYER_NORM_EPS))
    return F.linear(hidden, weights.down, weights.bias), gate, up


class _ChunkedGeGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, *weights: Tensor | None) -> Tensor:
        out, gate, up = _forward(x_ND, GatedWeights._make(weights).to(x_ND.dtype))
        ctx.save_for_backward(x_ND, gate, up, *weights[:-1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate, up, gate_weight, up_weight, norm, norm_bias, down = ctx.saved_tensors
        gate_weight, up_weight, down = (
            weight.to(gate.dtype) for weight in (gate_weight, up_weight, down)
        )
        hidden, dgate = torch.empty_like(gate), torch.empty_like(gate)
        dup = _product(gradient_ND, down)
        dnorm = None if norm is None else torch.zeros(2, len(norm), dtype=norm.dtype)
        for rows in _chunks(gate):
            gelu = F.gelu(gate[rows])
            product = torch.mul(gelu, up[rows], out=hidden[rows])
            dproduct = dup[rows]
            if dnorm is not None:
                shape = product.shape[1:]
                normal, *moments = torch.native_layer_norm(
                    product, shape, norm, norm_bias, LAYER_NORM_EPS
                )
                dproduct, *dweights = _aten.native_layer_norm_backward(
                    dproduct, product, shape, *moments, norm, norm_bias, (True,) * 3
                )
                dnorm += torch.stack(dweights)
                product.copy_(normal)
            _aten.gelu_backward.grad_input(dproduct * up[rows], gate[rows], grad_input=dgate[rows])
            torch.mul(dproduct, gelu, out=dup[rows])
        wants_x, wants_gate, wants_up, _, _, wants_down, _ = ctx.needs_input_grad
        return (
            (dgate @ gate_weight).addmm_(dup, up_weight) if wants_x else None,
            dgate.T @ x_ND if wants_gate else None,
            dup.T @ x_ND if wants_up else None,
            *(dnorm if dnorm is not None else (None, None)),
            gradient_ND.T @ hidden if wants_down else None,
            gradient_ND.sum(0),
        )
