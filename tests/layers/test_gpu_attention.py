"""The parts around the kernels, with a plain version of these; the kernels themselves need a GPU."""

import pytest
import torch

from mmonepeace.layers import gpu_attention
from mmonepeace.layers import kernels as kernels_module
from mmonepeace.layers.kernels import attend
from mmonepeace.layers.relative_position_bias import DenseBias, GridBias, PaddedBias
from mmonepeace.layers.resampling import num_rpb_rows


@pytest.mark.parametrize("trained", ["qkvt", "qkv", "t"])
@pytest.mark.parametrize("cls_token", [True, False])
def test_values_and_gradients_are_those_of_plain_attention(
    cls_token, trained, kernels, monkeypatch
):
    monkeypatch.setattr(gpu_attention, "SAMPLE_BYTES", 1)
    grid, length = (4, 5), 20 + cls_token
    table = torch.randn(num_rpb_rows(grid), 3, dtype=torch.float64, requires_grad="t" in trained)
    inputs = [
        torch.randn(2, 3, length, 16, dtype=torch.float64, requires_grad=x in trained)
        for x in "qkv"
    ]
    bias = GridBias(table, grid, cls_token)
    ours, plain = (attend(*inputs, bias, 0.3, backend) for backend in ("recomputed", "eager"))
    torch.testing.assert_close(ours, plain)
    wanted = [x for x in (*inputs, table) if x.requires_grad]
    gradient = torch.randn_like(plain)
    found, expected = (torch.autograd.grad(out, wanted, gradient) for out in (ours, plain))
    torch.testing.assert_close(found, expected)
    pairs = (3, length, length)
    assert kernels == [(2, *pairs), (1, *pairs), (1, *pairs)], "gradients one sample at a time"


@pytest.mark.parametrize("kind", ["grid", "pairs"])
@pytest.mark.parametrize("trained", ["qkvt", "qkv", ""])
def test_padding_is_masked_for_some_samples_at_a_time(kind, trained, kernels, monkeypatch):
    grid, length, pairs = (4, 5), 21, (3, 21, 21)
    monkeypatch.setattr(gpu_attention, "SAMPLE_BYTES", 2 * 3 * 21 * 21 * 8)
    size = (num_rpb_rows(grid), 3) if kind == "grid" else (1, *pairs)
    source = torch.randn(size, dtype=torch.float64, requires_grad="t" in trained)
    inputs = [
        torch.randn(3, 3, length, 16, dtype=torch.float64, requires_grad=x in trained)
        for x in "qkv"
    ]
    pad = torch.arange(length) >= torch.tensor([[21], [7], [15]])
    bias = GridBias(source, grid, True) if kind == "grid" else DenseBias(source)
    bias = PaddedBias(bias, pad)
    ours, plain = (attend(*inputs, bias, 0.3, backend) for backend in ("recomputed", "eager"))
    torch.testing.assert_close(ours, plain)
    if trained:
        wanted = [x for x in (*inputs, source) if x.requires_grad]
        gradient = torch.randn_like(plain)
        found, expected = (torch.autograd.grad(out, wanted, gradient) for out in (ours, plain))
        torch.testing.assert_close(found, expected)
    assert kernels == [(2, *pairs), (1, *pairs)] * (2 if trained else 1)
    chosen = bias.select([0, 2])
    torch.testing.assert_close(chosen.dense(), bias.dense()[[0, 2]])


@pytest.mark.parametrize(("grads", "heads", "name"), [
    (True, 3, "recomputed"), (False, 3, "sdpa"), (True, 2**23, "flex"), (False, 2**23, "flex"),
])  # fmt: skip
def test_gpus_look_up_a_bias_that_would_be_large(grads, heads, name, monkeypatch):
    monkeypatch.setattr(kernels_module, "find_spec", lambda _: True)
    q = torch.empty(2, heads, 9, 16, device="meta", dtype=torch.bfloat16)
    table = torch.empty(num_rpb_rows((3, 3)), heads, device="meta", requires_grad=True)
    with torch.set_grad_enabled(grads):
        assert kernels_module._choose(q, GridBias(table, (3, 3), False)) == name
        padded = PaddedBias(GridBias(table, (3, 3), False), torch.empty(2, 9))
        assert kernels_module._choose(q, padded) == "recomputed"
        assert (
            kernels_module._choose(q, DenseBias(torch.empty(2, heads, 9, 9, device="meta")))
            == "sdpa"
        )
    monkeypatch.setattr(kernels_module, "find_spec", lambda _: None)
    with torch.set_grad_enabled(grads):
        expected = "recomputed" if grads else "sdpa"
        assert kernels_module._choose(q, GridBias(table, (3, 3), False)) == expected


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 16), (torch.bfloat16, 12)])
def test_what_the_kernel_refuses_is_left_to_pytorch(dtype, width):
    q = torch.empty(2, 3, 9, width, device="meta", dtype=dtype)
    table = torch.empty(num_rpb_rows((3, 3)), 3, device="meta", requires_grad=True)
    assert kernels_module._choose(q, GridBias(table, (3, 3), False)) == "sdpa"


def test_rows_of_a_bias_are_aligned_on_gpus():
    table = torch.empty(num_rpb_rows((4, 5)), 3, device="meta")
    dense = GridBias(table, (4, 5), True).dense()
    assert dense.shape == (1, 3, 21, 21)
    assert dense.stride() == (3 * 21 * 24, 21 * 24, 24, 1)
