"""The gated FFN on a CPU, in cache-sized chunks.

Shapes: N tokens, F FFN width, D width.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmonepeace.layers.cpu.linear import (
    Wanted,
    linear,
    parameter_gradients,
    product,
    result_of,
    row_length,
    weight_gradient,
)
from mmonepeace.spec import LAYER_NORM_EPS

_CHUNK_NUMEL = 1 << 19  # of one operand of the gating: a few of them fit into the cache
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


def chunked_geglu(
    x: Tensor,
    *weights: Tensor | None,
    residual: Tensor | None = None,
    gamma: Tensor | None = None,
) -> Tensor:
    """residual + gamma * down(layer_norm(gelu(gate x) * up x)), (..., D) -> (..., D).

    Products are computed in the dtype of x, to which matrices of another one are converted in both
    passes. Differentiable once; saves x, gate x and up x for the backward pass.

    Args:
        x: inputs.
        weights: the fields of `GatedWeights`.
        residual: (..., D); its dtype is that of the result.
        gamma: LayerScale, (D,); only with a residual.
    """
    x_ND = x.flatten(0, -2)
    residual_ND = None if residual is None else residual.flatten(0, -2)
    if torch.is_grad_enabled():
        out_ND = _ChunkedGeGLU.apply(x_ND, *weights, residual_ND, gamma)
    else:
        converted, count = GatedWeights._make(weights).to(x.dtype), max(1, len(x_ND) // _TOKENS)
        chunks = x_ND.chunk(count)
        residuals = [None] * len(chunks) if residual_ND is None else residual_ND.chunk(count)
        pairs = zip(chunks, residuals, strict=True)
        out_ND = torch.cat([_forward(x, converted, onto, gamma)[0] for x, onto in pairs])
    return out_ND.view_as(x)


def _chunks(x_NF: Tensor) -> Iterator[slice]:
    """Rows that are gated together."""
    rows = max(1, _CHUNK_NUMEL // x_NF.shape[1])
    return (slice(start, start + rows) for start in range(0, len(x_NF), rows))


def _forward(
    x_ND: Tensor, weights: GatedWeights, residual_ND: Tensor | None, gamma: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, gate x and up x."""
    out = result_of(x_ND, residual_ND)
    gate, up = (x_ND.new_empty(len(x_ND), len(weights.gate)) for _ in range(2))
    product(x_ND, weights.gate.to(x_ND.dtype).T, out=gate)
    product(x_ND, weights.up.to(x_ND.dtype).T, out=up)
    hidden = torch.empty_like(gate)
    for rows in _chunks(gate):
        chunk = _aten.gelu.out(gate[rows], out=hidden[rows]).mul_(up[rows])
        if weights.norm is not None:
            shape = chunk.shape[1:]
            chunk.copy_(F.layer_norm(chunk, shape, weights.norm, weights.norm_bias, LAYER_NORM_EPS))
    return linear(hidden, weights.down, weights.bias, residual_ND, gamma, out), gate, up


class _ChunkedGeGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, *inputs: Tensor | None) -> Tensor:
        *weights, residual_ND, gamma = inputs
        out, gate, up = _forward(x_ND, GatedWeights._make(weights), residual_ND, gamma)
        ctx.save_for_backward(x_ND, gate, up, *weights, gamma)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate, up, *weights, gamma = ctx.saved_tensors
        gate_weight, up_weight, norm, norm_bias, down, bias = weights
        count, width = gate.shape
        hidden = torch.empty_like(gate)
        dgate, dup = gate.new_empty(2, count, row_length(width))[..., :width]  # to be transposed
        scaled_ND = gradient_ND if gamma is None else gradient_ND * gamma
        product(scaled_ND.to(gate.dtype), down.to(gate.dtype), out=dup)
        dnorm = None if norm is None else torch.zeros(2, len(norm), dtype=norm.dtype)
        for rows in _chunks(gate):
            gelu = F.gelu(gate[rows])
            gated = torch.mul(gelu, up[rows], out=hidden[rows])
            dgated = dup[rows]
            if dnorm is not None:
                shape = gated.shape[1:]
                normal, *moments = torch.native_layer_norm(
                    gated, shape, norm, norm_bias, LAYER_NORM_EPS
                )
                dgated, *dweights = _aten.native_layer_norm_backward(
                    dgated, gated, shape, *moments, norm, norm_bias, (True,) * 3
                )
                dnorm += torch.stack(dweights)
                gated.copy_(normal)
            _aten.gelu_backward.grad_input(dgated * up[rows], gate[rows], grad_input=dgate[rows])
            torch.mul(dgated, gelu, out=dup[rows])
        wants_x, wants_gate, wants_up, *_, wants_down, wants_bias, wants_residual, wants_gamma = (
            ctx.needs_input_grad
        )
        wanted = Wanted(wants_down, wants_bias, wants_gamma)
        ddown, dbias, dgamma = parameter_gradients(gradient_ND, hidden, down, bias, gamma, wanted)
        del hidden
        dx = None
        if wants_x:
            dx = product(dgate, gate_weight.to(dgate.dtype))
            product(dup, up_weight.to(dup.dtype), added=dx, out=dx)
        return (
            dx,
            weight_gradient(dgate, x_ND) if wants_gate else None,
            weight_gradient(dup, x_ND) if wants_up else None,
            *(dnorm if dnorm is not None else (None, None)),
            ddown,
            dbias,
            gradient_ND if wants_residual else None,
            dgamma,
        )
