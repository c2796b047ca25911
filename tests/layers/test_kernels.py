import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mmonepeace.layers.kernels import _score_mod, attend
from mmonepeace.layers.relative_position_bias import DenseBias, GridBias, RelativePositionBias1D
from mmonepeace.layers.resampling import num_rpb_rows
from mmonepeace.models import OnePeace
from tests.conftest import ROOT

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
GRID, LENGTH = (4, 5), 21


def case(kind, values=16, device="cpu", batch=2):
    """(queries, keys, values), what is trained, and the bias: a name, or a function of values."""
    q, k = (torch.randn(batch, 3, LENGTH, 16, device=device) for _ in "qk")
    v = torch.randn(batch, 3, LENGTH, values, device=device)
    table = torch.randn(num_rpb_rows(GRID), 3, device=device)
    dense = torch.randn(batch, 3, LENGTH, LENGTH, device=device)
    trained = [x.requires_grad_() for x in (q, k, v, table, dense)]
    biases = {
        "grid": GridBias(table, GRID, True),
        "dense": DenseBias(dense),
        "shared": DenseBias(dense[:1]),
        "none": DenseBias(),
    }
    return (q, k, v), trained, kind(dense) if callable(kind) else biases[kind]


def gradients(out, trained):
    return torch.autograd.grad(out.square().sum(), trained, allow_unused=True)


def assert_like_eager(backend, kind, values=16, device="cpu", batch=2):
    inputs, trained, bias = case(kind, values, device, batch)
    expected, out = (attend(*inputs, bias, 0.3, name) for name in ("eager", backend))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for grad, want in zip(gradients(out, trained), gradients(expected, trained), strict=True):
        if want is not None:
            torch.testing.assert_close(grad, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("values", [16, 8])
@pytest.mark.parametrize("kind", ["grid", "dense", "shared", "none"])
@pytest.mark.parametrize("backend", ["auto", "blocks", "sdpa"])
def test_backends_give_the_same_values_and_gradients(backend, kind, values):
    assert_like_eager(backend, kind, values)


@pytest.mark.parametrize("backend", ["auto", "blocks", "sdpa", "eager"])
def test_a_cls_token_alone_attends_to_itself(backend):
    bias = RelativePositionBias1D(4, 3, 1)(1, 0, torch.float32)
    q, k, v = torch.randn(3, 2, 3, 1, 16).unbind()
    torch.testing.assert_close(attend(q, k, v, bias, backend=backend), v)


@needs_cuda
@pytest.mark.parametrize("kind", ["grid", "dense", "shared", "none"])
@pytest.mark.parametrize("backend", ["auto", "flex", "xformers"])
def test_backends_give_the_same_on_cuda(backend, kind):
    if backend == "xformers":
        pytest.importorskip("xformers")
    assert_like_eager(backend, kind, device="cuda")


@pytest.mark.parametrize("cls_token", [True, False])
def test_flex_attention_looks_up_the_bias_of_each_pair(cls_token):
    table = torch.randn(num_rpb_rows(GRID), 3, requires_grad=True)
    bias = GridBias(table, GRID, cls_token)
    sizes = (2, *bias.dense().shape[1:])
    dense = [DenseBias(torch.randn(*shape, *sizes[2:])) for shape in ((2, 3), (2, 1), (1, 1))]
    for given in (bias, DenseBias(bias.dense()), *dense):
        expected = given.dense()
        pairs = torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij")
        assert torch.equal(_score_mod(given)(torch.zeros(sizes), *pairs), expected.expand(sizes))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_flex_attention_infers_the_same_on_a_cpu():
    inputs, _, bias = case("grid")
    with torch.inference_mode():
        expected, out = (attend(*inputs, bias, 0.3, name) for name in ("eager", "flex"))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["grid", "dense", "shared", "none"])
def test_xformers_gets_what_its_kernels_take(kind, monkeypatch):
    """They are not there on CPUs; this stands in for them, and is as strict."""

    def kernel(query, key, value, attn_bias=None, scale=None):
        assert query.shape == (2, LENGTH, 3, 16), "(B, L, H, d)"
        if attn_bias is not None:
            assert attn_bias.shape == (2, 3, LENGTH, LENGTH)
            assert attn_bias.stride(-1) == 1
            assert attn_bias.stride(-2) % 8 == 0
        heads = (x.transpose(1, 2) for x in (query, key, value))
        return attend(*heads, DenseBias(attn_bias), scale, "eager").transpose(1, 2)

    ops = SimpleNamespace(memory_efficient_attention=kernel)
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(ops=ops))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr("mmonepeace.layers.kernels.find_spec", lambda name: name)
    assert_like_eager("xformers", kind)


def test_what_a_backend_cannot_do_is_said(monkeypatch):
    inputs, _, bias = case("grid")
    with pytest.raises(ValueError, match=r"'fast' is unknown\. Choose from auto, blocks"):
        attend(*inputs, bias, backend="fast")
    with pytest.raises(ValueError, match=r"no gradients on CPUs\. Choose 'auto'"):
        attend(*inputs, bias, backend="flex")
    monkeypatch.setattr("mmonepeace.layers.kernels.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install xformers"):
        OnePeace("tiny", attention="xformers")


def test_a_model_attends_in_the_way_it_is_told():
    images = torch.randn(1, 3, 64, 96)
    model = OnePeace("tiny", img_size=64).eval()
    chosen = OnePeace("tiny", img_size=64, attention="eager").eval()
    chosen.load_state_dict(model.state_dict())
    assert {layer.attn.backend for layer in chosen.layers} == {"eager"}
    torch.testing.assert_close(chosen(images), model(images))


def strip_cpu_kernels(package):
    """Delete `layers/cpu` from a copy of the package, and what `kernels.py` says of it."""
    shutil.rmtree(package / "layers" / "cpu")
    file = package / "layers" / "kernels.py"
    lines = file.read_text().splitlines()
    kept = [x for x in lines if "mmonepeace.layers.cpu" not in x and ": CpuKernel(" not in x]
    file.write_text("\n".join(kept) + "\n")


@pytest.mark.slow
def test_plain_code_needs_no_cpu_kernels(tmp_path):
    for folder in ("mmonepeace", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    strip_cpu_kernels(tmp_path / "mmonepeace")
    files = ("layers/test_encoder.py", "models/test_golden.py", "models/test_modalities.py")
    paths = [str(tmp_path / "tests" / file) for file in files]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout
