import pytest
import torch
import torch.nn.functional as F

from mmonepeace.layers import gated as module
from mmonepeace.layers.gated import gated_linear
from mmonepeace.spec import LAYER_NORM_EPS


@pytest.mark.parametrize("numbers", [1, 30, 1 << 19])  # of a piece: one row, some, all
@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_the_plain_gated_layer(normalised, numbers, monkeypatch):
    monkeypatch.setattr(module, "_PIECE_NUMBERS", numbers)
    shapes = ((2, 7, 10), (2, 7, 10), (10,), (10,), (6, 10), (6,))
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    gate, up, *norm, weight, bias = tensors
    out = gated_linear(gate, up, norm if normalised else None, (weight, bias))
    hidden = F.gelu(gate) * up
    if normalised:
        hidden = F.layer_norm(hidden, (10,), *norm, LAYER_NORM_EPS)
    plain = F.linear(hidden, weight, bias)
    torch.testing.assert_close(out, plain)
    grads, expected = (
        torch.autograd.grad(x.square().sum(), tensors, allow_unused=True) for x in (out, plain)
    )
    for grad, want in zip(grads, expected, strict=True):
        assert (grad is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(grad, want)


def test_frozen_weights_get_no_gradient():
    gate, up = (torch.randn(3, 8, requires_grad=True) for _ in "gu")
    out = gated_linear(
        gate, up, (torch.ones(8), torch.zeros(8)), (torch.randn(4, 8), torch.zeros(4))
    )
    out.sum().backward()
    assert gate.grad.shape == up.grad.shape == (3, 8)


def test_inputs_alone_are_kept_for_the_backward_pass():
    gate, up = (torch.randn(5, 64, requires_grad=True) for _ in "gu")
    weight = torch.randn(4, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        gated_linear(gate, up, (torch.ones(64), torch.zeros(64)), (weight, torch.zeros(4)))
    assert sum(x.numel() for x in kept) == gate.numel() + up.numel() + 2 * 64 + weight.numel()
