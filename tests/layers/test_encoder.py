import pytest
import torch

from mmonepeace.layers.encoder import DropPath, FusionEncoder, GeGLU
from mmonepeace.layers.kernels import CPU_KERNELS, CpuKernel, add_to, attend
from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.layers.tokens import Tokens
from mmonepeace.spec import Arch

ARCH = Arch(16, 3, 2, 24)


def make_tokens(batch=2, length=5):
    table = torch.randn(3, 1, 2, length, length)
    return Tokens(
        torch.randn(batch, length, 16), {"image": length}, lambda i, dtype: DenseBias(table[i])
    )


def test_attention_is_softmax_of_scaled_products_plus_bias():
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    bias = torch.randn(1, 4, 6, 6)
    weights = (q @ k.transpose(-1, -2) / 8**0.5 + bias).softmax(-1)
    torch.testing.assert_close(attend(q, k, v, DenseBias(bias)), weights @ v)


def test_geglu_gates_with_the_exact_gelu():
    ffn = GeGLU(Arch(8, 1, 1, 10))
    x = torch.randn(2, 3, 8)
    gate = ffn.gate(x)
    hidden = 0.5 * gate * (1 + torch.erf(gate / 2**0.5)) * ffn.up(x)
    torch.testing.assert_close(ffn(x), ffn.down(ffn.norm(hidden)))


def test_geglu_calls_layers_that_others_put_in(monkeypatch):
    class Raised(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    monkeypatch.setitem(CPU_KERNELS, "geglu", CpuKernel(pytest.fail))
    ffn, x = GeGLU(Arch(8, 1, 1, 10)), torch.randn(2, 3, 8)
    expected = ffn.down(ffn.norm(torch.nn.functional.gelu(ffn.gate(x)) * (ffn.up(x) + 1)))
    ffn.up.__class__ = Raised
    torch.testing.assert_close(ffn(x), expected)


def test_geglu_computes_in_the_dtype_of_autocast(monkeypatch):
    ffn, x = GeGLU(Arch(8, 1, 1, 10)), torch.randn(2, 3, 8)
    for kernels in ({}, {name: CpuKernel(kernel.function) for name, kernel in CPU_KERNELS.items()}):
        with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as patch:
            patch.setattr("mmonepeace.layers.kernels.CPU_KERNELS", kernels)
            out = ffn(x)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), ffn(x), rtol=0.1, atol=0.05)


def test_geglu_uses_the_kernel_for_large_inputs_only(monkeypatch):
    calls = []
    kernel = CpuKernel(lambda x, *weights, **_: calls.append(x.shape) or x, min_numel=48)
    monkeypatch.setitem(CPU_KERNELS, "geglu", kernel)
    ffn = GeGLU(Arch(8, 1, 1, 10))
    ffn(torch.randn(2, 3, 8))
    ffn(torch.randn(2, 2, 8))
    ffn.double()(torch.randn(2, 3, 8, dtype=torch.float64))
    assert calls == [(2, 3, 8)]


def test_permuting_a_batch_permutes_the_output():
    encoder = FusionEncoder(ARCH, ["image"], layer_scale_init=0.5).eval()
    tokens = make_tokens(4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = Tokens(tokens.x_BLD[order], tokens.lengths, tokens.bias)
    torch.testing.assert_close(
        encoder(permuted, [2])[0], encoder(tokens, [2])[0][order], rtol=1e-5, atol=1e-6
    )


def test_each_modality_goes_through_its_own_ffn():
    encoder = FusionEncoder(ARCH, ["image", "other"]).eval()
    tokens = make_tokens()
    tokens.lengths = {"image": 3, "other": 2}
    before = encoder(tokens, [0])[0]
    with torch.no_grad():
        encoder[0].ffn["other"].down.bias += 1
    after = encoder(tokens, [0])[0]
    assert torch.equal(before[:, :3], after[:, :3])
    torch.testing.assert_close(before[:, 3:] + 1, after[:, 3:])


@pytest.mark.parametrize("shared", [True, False])
def test_activation_checkpointing_changes_no_gradient(shared):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(1)
        encoder = FusionEncoder(ARCH, ["image"], 0.3, 0.5, with_cp=with_cp).train()
        tokens = make_tokens(4)
        tokens.shared_bias = shared
        table = torch.randn(1, 2, 5, 5, requires_grad=True)
        tokens.bias = lambda i, dtype, table=table: DenseBias(table * 2)
        torch.manual_seed(2)
        encoder(tokens, [2])[0].square().sum().backward()
        gradients.append([table.grad, *(p.grad for p in encoder.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_drop_path_equals_the_masked_residual():
    drop = DropPath(0.5).train()
    x = torch.randn(16, 3)
    torch.manual_seed(3)
    kept = torch.rand(16) < 0.5
    torch.manual_seed(3)
    got = drop(x, lambda samples, _, residual: add_to(residual, samples * 10))
    torch.testing.assert_close(got, x + x * 10 * kept[:, None] / 0.5)


def test_drop_path_does_not_compute_what_it_drops():
    seen = []
    drop = DropPath(0.5).train()

    def branch(samples, index, residual):
        seen.append((len(samples), index))
        return add_to(residual, samples)

    torch.manual_seed(3)
    drop(torch.randn(16, 3), branch)
    count, index = seen[0]
    assert count == len(index) < 16


def test_drop_path_is_the_plain_sum_in_expectation():
    drop = DropPath(0.4).train()
    x = torch.ones(20000, 1)

    def branch(samples, _, residual):
        return add_to(residual, samples)

    assert drop(x, branch).mean() == pytest.approx(2, abs=0.03)
    assert torch.equal(drop.eval()(x, branch), 2 * x)


@pytest.mark.parametrize("gamma", [None, torch.tensor([1.0, 2, 3])])
def test_keeping_every_sample_scales_the_branch(gamma, monkeypatch):
    drop, x = DropPath(0.5).train(), torch.randn(4, 3)
    monkeypatch.setattr(drop, "draw", lambda count: list(range(count)))
    got = drop(x, lambda samples, _, residual: add_to(residual, 10 * samples), gamma)
    torch.testing.assert_close(got, x + 20 * x * (1 if gamma is None else gamma))


def test_dropping_every_sample_still_gives_each_parameter_a_gradient():
    drop = DropPath(0.99).train()
    weight = torch.ones(3, requires_grad=True)
    x = torch.randn(1, 3)
    torch.manual_seed(0)
    out = drop(x, lambda samples, _, residual: add_to(residual, samples * weight))
    assert torch.equal(out, x)
    out.sum().backward()
    assert torch.equal(weight.grad, torch.zeros(3))


def test_rates_rise_linearly_to_the_last_block():
    encoder = FusionEncoder(Arch(16, 5, 2, 16), ["image"], 0.4)
    assert [layer.drop_path.rate for layer in encoder] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_a_rate_of_one_is_refused():
    with pytest.raises(ValueError, match=r"1\.0"):
        DropPath(1.0)
