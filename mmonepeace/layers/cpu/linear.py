"""Linear layers on a CPU whose backward pass keeps their inputs alone.

Autocast keeps converted copies of all weights, and LayerScale the branch that it scales, until the
backward pass. Here weights are converted in both passes, and the gradient of LayerScale comes from
that of the weight: with y = r + gamma (x W^T + b) and dW = dy^T x, it is the sum of W dW over each
row, plus that of dy times b.

Shapes: N tokens, K inputs, F outputs.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS = 64  # of a weight: products of that many fit into the cache
_COLUMNS = 1024  # of a product in float32 with a smaller inner size, which is slower when wider
# Of one in half precision up to that width, which oneDNN computes with a single thread otherwise.
_HALF_COLUMNS = 256


def residual_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    gamma: Tensor | None = None,
) -> Tensor:
    """residual + gamma * (x W^T + b), (..., K) -> (..., F), with products in the dtype of x.

    Differentiable once.

    Args:
        x: inputs.
        weight: (F, K), of any dtype.
        bias: (F,).
        residual: (..., F); its dtype is that of the result.
        gamma: LayerScale, (F,); only with a residual.
    """
    if torch.is_grad_enabled():
        return _ResidualLinear.apply(x, weight, bias, residual, gamma)
    return linear(x, weight, bias, residual, gamma, result_of(x, residual))


def row_length(numbers: int) -> int:
    """Row length for fast matrix products: full cache lines that do not map to the same set."""
    length = math.ceil(numbers / 16) * 16
    return length + 16 if length % 256 == 0 else length


def product(
    a_MK: Tensor, b_KN: Tensor, added: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """added + a b, column by column in pieces of the fastest width.

    Args:
        a_MK: of the dtype of b.
        b_KN: of the dtype of the result.
        added: (N,) or (M, N).
        out: where the result is written.
    """
    (inner, width), rows = b_KN.shape, len(a_MK)
    out = a_MK.new_empty(rows, width) if out is None else out
    step = width
    if a_MK.dtype == torch.float32:
        step = _COLUMNS if width > inner else width
    elif width <= _COLUMNS:
        step = _HALF_COLUMNS
    for columns in (slice(start, start + step) for start in range(0, width, step)):
        if added is None:
            torch.mm(a_MK, b_KN[:, columns], out=out[:, columns])
        else:
            torch.addmm(added[..., columns], a_MK, b_KN[:, columns], out=out[:, columns])
    return out


def weight_gradient(gradient_NF: Tensor, x_NK: Tensor) -> Tensor:
    """The gradient of W in x W^T, (F, K)."""
    left_FN = gradient_NF.T
    if left_FN.dtype != torch.float32:
        # Products of half precision take twice as long if rows are not contiguous.
        left_FN = left_FN.contiguous()
    return product(left_FN, x_NK)


class Wanted(NamedTuple):
    """Whether the parameters of a linear layer and its LayerScale need gradients."""

    weight: bool
    bias: bool
    gamma: bool


def parameter_gradients(
    gradient_NF: Tensor,
    x_NK: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    wanted: Wanted,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of weight, bias and gamma in gamma * (x W^T + b), None for what needs none."""
    gradient_NF = gradient_NF.to(x_NK.dtype)
    dweight = dbias = dgamma = None
    if wanted.weight or wanted.gamma:
        dweight = weight_gradient(gradient_NF, x_NK).to(weight.dtype)
    if bias is not None and (wanted.bias or wanted.gamma):
        dbias = gradient_NF.sum(0).to(bias.dtype)
    if gamma is not None:
        if dweight is not None and wanted.gamma:
            pieces = zip(dweight.split(_ROWS), weight.split(_ROWS), strict=True)
            dgamma = torch.cat([(dw * w).sum(1) for dw, w in pieces]).to(gamma.dtype)
            if bias is not None and dbias is not None:
                dgamma = torch.addcmul(dgamma, dbias, bias)
        dweight = dweight.mul_(gamma[:, None]) if dweight is not None and wanted.weight else None
        dbias = dbias * gamma if dbias is not None and wanted.bias else None
    return dweight, dbias, dgamma


def result_of(x: Tensor, residual: Tensor | None) -> Tensor | None:
    """Memory for a sum that does not fit into that of the branch, to be allocated before temporary ones.

    So the C library finds temporary memory in one piece above what is kept.
    """
    return None if residual is None or residual.dtype == x.dtype else torch.empty_like(residual)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    gamma: Tensor | None,
    out: Tensor | None,
) -> Tensor:
    """`residual_linear` without what the backward pass needs, written to what `result_of` gives."""
    bias = None if bias is None else bias.to(x.dtype)
    branch = product(x.flatten(0, -2), weight.to(x.dtype).T, bias).unflatten(0, x.shape[:-1])
    if residual is None:
        return branch
    out = branch if out is None else out
    if gamma is None:
        return torch.add(residual, branch, out=out)
    return torch.addcmul(residual, branch, gamma, out=out)


class _ResidualLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        gamma: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, gamma)
        return linear(x, weight, bias, residual, gamma, result_of(x, residual))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, gamma = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_residual, wants_gamma = ctx.needs_input_grad
        dx = None
        if wants_x:
            scaled = gradient if gamma is None else gradient * gamma
            dx = product(scaled.to(x.dtype).flatten(0, -2), weight.to(x.dtype)).view_as(x)
        wanted = Wanted(wants_weight, wants_bias, wants_gamma)
        inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        dweight, dbias, dgamma = parameter_gradients(*inputs, weight, bias, gamma, wanted)
        return dx, dweight, dbias, gradient if wants_residual else None, dgamma
