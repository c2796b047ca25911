import math
from dataclasses import replace

import pytest
import torch

from mmonepeace.layers.cpu import grid_attention as module
from mmonepeace.layers.cpu.grid_attention import grid_bias_attention
from mmonepeace.layers.encoder import activation_checkpoint
from mmonepeace.layers.kernels import CPU_KERNELS, CpuKernel, attend
from mmonepeace.layers.relative_position_bias import DenseBias, GridBias
from mmonepeace.layers.resampling import num_rpb_rows


def inputs(grid, cls, batch=2, heads=3, width=8, values=8, dtype=torch.float64):
    length = grid[0] * grid[1] + cls
    q, k = (torch.randn(batch, length, heads, width, dtype=dtype) for _ in "qk")
    v = torch.randn(batch, length, heads, values, dtype=dtype)
    table = torch.randn(num_rpb_rows(grid), heads, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, table)]


def both(grid, cls, tensors, scale):
    """(output, gradients) of grid_bias_attention and of the plain product with the whole bias."""
    q, k, v, table = tensors
    weight = torch.randn(q.shape[0], q.shape[2], q.shape[1], v.shape[-1], dtype=q.dtype)
    found = []
    for plain in (False, True):
        bias = GridBias(table, grid, bool(cls))
        args = [x.transpose(1, 2) for x in (q, k, v)]
        out = (
            attend(*args, DenseBias(bias.dense()), scale)
            if plain
            else grid_bias_attention(*args, bias, scale=scale)
        )
        grads = torch.autograd.grad((out * weight).sum(), tensors, allow_unused=True)
        found.append((out, grads))
    return found


@pytest.mark.parametrize("numbers", [1, 200, 1 << 19])  # of a block: one row, some, all
@pytest.mark.parametrize("cls", [0, 1])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (3, 5), (7, 2), (1, 6)])
def test_it_is_plain_attention_with_the_whole_bias(grid, cls, numbers, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", numbers * 8)
    for batch, heads, values, scale in ((1, 4, 8, None), (2, 3, 8, 0.3), (3, 1, 5, 1.0)):
        tensors = inputs(grid, cls, batch, heads, values=values)
        (out, grads), (plain, expected) = both(grid, cls, tensors, scale)
        torch.testing.assert_close(out, plain)
        for grad, want in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad, want if want is not None else torch.zeros_like(grad))


@pytest.mark.parametrize(("numbers", "rows"), [(1, 1), (200, 3), (1 << 19, 7)])
def test_blocks_of_limited_size_cover_all_rows_once(numbers, rows, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", numbers * 8)
    *_, table = inputs((7, 2), 1)
    blocks = module._Grid(module.unfolded_rows(table, (7, 2)), None, 2).blocks
    assert [row for block in blocks for row in range(block.first, block.last)] == list(range(7))
    assert max(block.last - block.first for block in blocks) == rows


@pytest.mark.parametrize("factor", [0.9, 1.1, 20])  # of the limit up to which no maximum is taken
@pytest.mark.parametrize("sign", [-1, 1])
def test_large_logits_do_not_overflow(factor, sign):
    _, k, v, table = inputs((4, 4), 1, dtype=torch.float32)
    limit = module._Grid(module.unfolded_rows(table, (4, 4)), None, 2).limit(torch.float32)
    scale = sign * factor * limit * math.log(2) / k.detach().square().sum(-1).max()
    tensors = [k.detach().clone().requires_grad_(), k, v, (table / 100).detach().requires_grad_()]
    (out, grads), (plain, expected) = both((4, 4), 1, tensors, scale.item())
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-4)
    for grad, want in zip(grads, expected, strict=True):
        assert (grad - want).abs().max() < 1e-3 * want.abs().max()


@pytest.mark.parametrize("largest", [4, 14, 30])  # in float16 the powers of 2 end at 16
def test_logits_do_not_overflow_half_precision(largest):
    _, k, v, table = (x.detach() for x in inputs((4, 4), 1, dtype=torch.float32))
    scale = largest * math.log(2) / k.square().sum(-1).max().item()
    args, bias = [x.transpose(1, 2) for x in (k, k, v)], GridBias(table / 100, (4, 4), True)
    half = replace(bias, table_NH=bias.table_NH.half())
    found = grid_bias_attention(*(x.half() for x in args), half, scale)
    torch.testing.assert_close(
        found.float(), attend(*args, DenseBias(bias.dense()), scale), rtol=0, atol=0.03
    )


@pytest.mark.parametrize(
    "sharpness", [0.3, 3, 40]
)  # even weights, a few keys, one key: large logits
@pytest.mark.parametrize("grid", [(20, 20), (24, 13)])
def test_in_bfloat16_it_is_as_exact_as_the_plain_product(grid, sharpness):
    q, k, v, table = (x.detach().bfloat16() for x in inputs(grid, 1, 2, 2, 32, 32))
    weight = torch.randn_like(v)
    args, scale = [x.transpose(1, 2) for x in (q, k, v)], sharpness / 32**0.5

    def output_and_gradients(dtype, blocks):
        leaves = [x.to(dtype).requires_grad_() for x in (*args, table)]
        bias = GridBias(leaves[3], grid, True)
        out = (
            grid_bias_attention(*leaves[:3], bias, scale)
            if blocks
            else attend(*leaves[:3], bias, scale, "eager")
        )
        assert out.dtype == dtype
        found = (out, *torch.autograd.grad(out, leaves, weight.transpose(1, 2).to(dtype)))
        return [x.double() for x in found]

    exact = output_and_gradients(torch.float64, blocks=False)
    errors = [
        [((x - y).norm() / y.norm()).item() for x, y in zip(found, exact, strict=True)]
        for found in (output_and_gradients(torch.bfloat16, blocks) for blocks in (True, False))
    ]
    (out, *ours), (plain_out, *plain) = errors
    assert out < 1.3 * plain_out + 2e-3
    assert max(ours) < 1.5 * max(plain)
    assert max(out, *ours) < 0.03 or sharpness > 3


@pytest.mark.parametrize("largest", [10, 38, 400])
def test_logits_of_two_kinds_do_not_underflow_in_bfloat16(largest):
    """Their normal distribution would have a maximum far above them."""
    q, k, v, table = (x.detach().bfloat16() for x in inputs((20, 20), 1, 1, 1, 32, 32))
    q.zero_()[..., 0] = 1
    k.zero_()[..., 0] = largest * (2 * (torch.arange(401) % 2) - 1)[:, None]
    args = [x.transpose(1, 2).requires_grad_() for x in (q, k, v)]
    out = grid_bias_attention(*args, GridBias(table * 0, (20, 20), True), 1.0)
    assert (out - v[:, 1::2].mean(1)).abs().max() < 0.02
    grads = torch.autograd.grad(out.sum(), args)
    assert all(grad.isfinite().all() for grad in grads)


def test_frozen_bias_gets_no_gradient_and_no_grad_keeps_nothing():
    q, k, v, table = inputs((4, 4), 1)
    bias = GridBias(table.detach(), (4, 4), True)
    args = [x.transpose(1, 2) for x in (q, k, v)]
    out = grid_bias_attention(*args, bias)
    out.sum().backward()
    assert table.grad is None
    plain = attend(*args, DenseBias(bias.dense()))
    torch.testing.assert_close(q.grad, torch.autograd.grad(plain.sum(), q)[0])
    with torch.inference_mode():
        torch.testing.assert_close(grid_bias_attention(*args, bias), out)


def test_attention_of_a_recomputed_block_is_computed_once(monkeypatch):
    q, k, v, table = inputs((4, 4), 1)
    calls, attend_ = [], module._GridBiasAttention.attend
    monkeypatch.setattr(
        module._GridBiasAttention, "attend", lambda *args: calls.append(1) or attend_(*args)
    )

    def block(q, k, v, table):
        heads = (x.transpose(1, 2) for x in (q * 2, k, v))
        return grid_bias_attention(*heads, GridBias(table, (4, 4), True)).square()

    tensors, gradients = (q, k, v, table), []
    for way in (block, lambda *args: activation_checkpoint(block, *args)):
        out = way(*tensors).sum()
        gradients += [torch.autograd.grad(out, tensors, retain_graph=True) for _ in range(2)]
    assert len(calls) == 2, "one for each way"
    for other in gradients[1:]:
        for grad, want in zip(other, gradients[0], strict=True):
            torch.testing.assert_close(grad, want)


def test_training_and_long_sequences_take_it(monkeypatch):
    calls = []
    kernel = CpuKernel(lambda *args: calls.append(1) or grid_bias_attention(*args))
    monkeypatch.setitem(CPU_KERNELS, "attention", kernel)
    for grid, grad, taken in (((17, 18), False, 0), ((17, 18), True, 1), ((20, 26), False, 2)):
        q, k, v, table = inputs(grid, 1, dtype=torch.float32)
        args = [x.transpose(1, 2) for x in (q, k, v)]
        bias = GridBias(table, grid, True)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(attend(*args, bias), attend(*args, DenseBias(bias.dense())))
        assert sum(calls) == taken
