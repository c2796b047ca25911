import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmonepeace.layers.cpu.linear import product, residual_linear, weight_gradient
from mmonepeace.layers.kernels import CPU_KERNELS, CpuKernel, Residual, linear
from tests.layers.cpu.precision import relative_errors


def parameters(biased=True, scaled=True, dtype=torch.float64):
    """Inputs, weight, bias, residual and LayerScale."""
    shapes = (2, 7, 6), (5, 6), (5,), (2, 7, 5), (5,)
    x, weight, bias, residual, gamma = (
        torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes
    )
    return x, weight, bias if biased else None, residual, gamma if scaled else None


def plain(x, weight, bias, residual, gamma):
    branch = F.linear(x, weight, bias)
    branch = branch if gamma is None else branch * gamma
    return branch if residual is None else residual + branch


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_it_is_the_plain_linear_layer_with_layer_scale(biased, scaled):
    given = parameters(biased, scaled)
    out, expected = residual_linear(*given), plain(*given)
    torch.testing.assert_close(out, expected)
    leaves = [x for x in given if x is not None]
    grads, wanted = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(grads, wanted)
    with torch.no_grad():
        torch.testing.assert_close(residual_linear(*given), expected)


def test_without_a_residual_it_is_the_layer_alone():
    x, weight, bias, *_ = parameters()
    out = residual_linear(x, weight, bias)
    torch.testing.assert_close(out, F.linear(x, weight, bias))


@pytest.mark.parametrize("trained", range(5))
def test_what_is_frozen_gets_no_gradient(trained):
    given = parameters()
    for i, leaf in enumerate(given):
        leaf.requires_grad_(i == trained)
    residual_linear(*given).square().sum().backward()
    assert [i for i, leaf in enumerate(given) if leaf.grad is not None] == [trained]


def test_a_layer_scale_of_zero_gets_its_gradient():
    given = parameters()
    with torch.no_grad():
        given[-1].zero_()
    found, wanted = (
        torch.autograd.grad(way(*given).square().sum(), given) for way in (residual_linear, plain)
    )
    torch.testing.assert_close(found, wanted)


def test_inputs_alone_are_kept_for_the_backward_pass():
    given = parameters()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        residual_linear(*given)
    addresses = {x.data_ptr() for x in given}
    assert {x.data_ptr() for x in kept} < addresses


def test_in_bfloat16_it_is_as_exact_as_autocast():
    """Parameters and the residual stay in float32, and get gradients in float32."""
    _, *others = parameters(dtype=torch.float32)
    x = torch.randn(2, 7, 6).bfloat16().requires_grad_()

    def output_and_gradients(way):
        if way == "kernel":
            out = residual_linear(x, *others)
            assert out.dtype == torch.float32
        elif way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                out = plain(x, *others)
        else:
            out = plain(x.double(), *(other.double() for other in others))
        grads = torch.autograd.grad(out.double().square().sum(), (x, *others))
        assert [g.dtype for g in grads] == [torch.bfloat16, *[torch.float32] * 4]
        return out, *grads

    exact = output_and_gradients("float64")
    errors = [relative_errors(output_and_gradients(way), exact) for way in ("kernel", "autocast")]
    for ours, autocast in zip(*errors, strict=True):
        assert ours < max(1.5 * autocast, 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [100, 700, 2500])
def test_products_in_pieces_are_the_whole_product(dtype, width):
    """Widths of one piece and of several, the last one narrower."""
    a, b = torch.randn(5, 8).to(dtype), torch.randn(8, width).to(dtype)
    row, rows = torch.randn(width).to(dtype), torch.randn(5, width).to(dtype)
    exact = a.double() @ b.double()
    into = torch.empty(5, width + 3, dtype=dtype)[:, :width]
    wanted = exact, exact + row.double(), exact + rows.double(), exact
    found = (
        product(a, b),
        product(a, b, row),
        product(a, b, rows, out=rows),
        product(a, b, out=into),
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0.01, atol=0.02)
    assert found[3] is into


def test_a_weight_gradient_is_that_of_the_plain_product():
    dy, x = torch.randn(9, 300).bfloat16(), torch.randn(9, 700).bfloat16()
    (error,) = relative_errors([weight_gradient(dy, x)], [dy.double().T @ x.double()])
    assert error < 0.01


class Doubled(nn.Linear):
    """As LoRA's: a layer that computes in its own way."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_others_put_in_are_called(monkeypatch):
    monkeypatch.setitem(CPU_KERNELS, "linear", CpuKernel(residual_linear))
    layer, x, residual = Doubled(6, 5), torch.randn(2, 7, 6), Residual(torch.randn(2, 7, 5))
    expected = residual.x + 2 * F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(linear(layer, x, residual), expected)


@pytest.mark.parametrize("gamma", [None, torch.randn(5)])
def test_the_kernel_gives_what_the_plain_version_gives(gamma, monkeypatch):
    layer, x, residual = (
        nn.Linear(6, 5),
        torch.randn(2, 7, 6),
        Residual(torch.randn(2, 7, 5), gamma),
    )
    found = linear(layer, x, residual), linear(layer, x)
    monkeypatch.setitem(CPU_KERNELS, "linear", CpuKernel(residual_linear))
    torch.testing.assert_close((linear(layer, x, residual), linear(layer, x)), found)
