import pytest
import torch
import torch.nn.functional as F

from mmonepeace.layers.cpu import geglu as module
from mmonepeace.layers.cpu.geglu import GatedWeights, chunked_geglu
from mmonepeace.spec import LAYER_NORM_EPS
from tests.layers.cpu.precision import relative_errors


def make_weights(width=6, hidden=10, normalised=True, dtype=torch.float64):
    shapes = ((hidden, width), (hidden, width), (hidden,), (hidden,), (width, hidden), (width,))
    weights = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    if not normalised:
        weights[2:4] = None, None
    return GatedWeights(*weights)


def plain(x, weights):
    hidden = F.gelu(F.linear(x, weights.gate)) * F.linear(x, weights.up)
    if weights.norm is not None:
        shape = hidden.shape[-1:]
        hidden = F.layer_norm(hidden, shape, weights.norm, weights.norm_bias, LAYER_NORM_EPS)
    return F.linear(hidden, weights.down, weights.bias)


@pytest.fixture(params=[(1, 1), (30, 5), (1 << 19, 512)], ids=["one", "some", "all"])
def chunks(request, monkeypatch):
    """Numbers and tokens of a chunk."""
    for name, value in zip(("_CHUNK_NUMEL", "_TOKENS"), request.param, strict=True):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_the_plain_gated_ffn(normalised):
    weights = make_weights(normalised=normalised)
    x = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    out, expected = chunked_geglu(x, *weights), plain(x, weights)
    torch.testing.assert_close(out, expected)
    leaves = [x, *(weight for weight in weights if weight is not None)]
    grads, wanted = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(grads, wanted)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("scaled", [True, False])
def test_it_adds_to_a_residual(scaled):
    weights = make_weights()
    x, residual = (torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    gamma = torch.randn(6, dtype=torch.float64, requires_grad=True) if scaled else None
    out = chunked_geglu(x, *weights, residual=residual, gamma=gamma)
    expected = residual + plain(x, weights) * (gamma if scaled else 1)
    torch.testing.assert_close(out, expected)
    with torch.no_grad():
        found = chunked_geglu(x, *weights, residual=residual, gamma=gamma)
    torch.testing.assert_close(found, expected)
    leaves = [x, residual, *weights, *([gamma] if scaled else [])]
    grads, wanted = (torch.autograd.grad(y.square().sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(grads, wanted)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 1, 6), (0, 6)])
def test_inference_gives_the_same(shape):
    weights = make_weights()
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(chunked_geglu(x, *weights), plain(x, weights))


@pytest.mark.parametrize("trained", [*GatedWeights._fields, "x"])
def test_what_is_frozen_gets_no_gradient(trained):
    weights = make_weights()
    leaves = {"x": torch.randn(3, 6, dtype=torch.float64), **weights._asdict()}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == trained)
    chunked_geglu(leaves["x"], *weights).square().sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is not None] == [trained]


def test_tokens_gate_and_up_alone_are_kept_for_the_backward_pass():
    weights, x = make_weights(4, 64), torch.randn(5, 4, dtype=torch.float64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        chunked_geglu(x, *weights)
    sizes = [x.numel() for x in kept if not any(x is weight for weight in weights)]
    assert sum(sizes) == x.numel() + 2 * 5 * 64


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("normalised", [True, False])
def test_in_bfloat16_it_is_as_exact_as_the_plain_one(normalised):
    """Products in bfloat16, with weights in float32, which get gradients in float32."""
    weights = make_weights(32, 64, normalised, torch.float32)
    x = torch.randn(2, 7, 32).bfloat16().requires_grad_()
    leaves = [x, *(weight for weight in weights if weight is not None)]

    def output_and_gradients(way):
        if way == "kernel":
            out = chunked_geglu(x, *weights)
            assert out.dtype == torch.bfloat16
        elif way == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                out = plain(x, weights)
        else:
            given = [None if w is None else w.double() for w in weights]
            out = plain(x.double(), GatedWeights(*given))
        return out, *torch.autograd.grad(out.double().square().sum(), leaves)

    exact = output_and_gradients("float64")
    errors = [relative_errors(output_and_gradients(way), exact) for way in ("kernel", "autocast")]
    for ours, autocast in zip(*errors, strict=True):
        assert ours < max(1.5 * autocast, 0.01)


def test_without_gradients_bfloat16_gives_the_same():
    weights, x = make_weights(32, 64, dtype=torch.float32), torch.randn(5, 32).bfloat16()
    with torch.no_grad():
        found = chunked_geglu(x, *weights)
    assert found.equal(chunked_geglu(x, *weights))
