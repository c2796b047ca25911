import math

import pytest
import torch

from mmonepeace.layers.deformable import DeformableAttention, cell_centres, deform_attend

GRIDS = ((4, 6), (2, 3))


def inputs(dtype=torch.float64, points=None):
    keys = sum(rows * columns for rows, columns in GRIDS)
    value = torch.randn(2, keys, 3, 5, dtype=dtype)
    where = torch.rand(2, 7, 3, 2, 4, 2, dtype=dtype) if points is None else points
    weights = torch.rand(2, 7, 3, 2, 4, dtype=dtype)
    return value, where, weights


def by_hand(value, where, weights):
    """Bilinear, zero outside, one number at a time."""
    out = torch.zeros(2, 7, 3, 5, dtype=value.dtype)
    starts = [0, GRIDS[0][0] * GRIDS[0][1]]
    for b, q, h, s, p in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        rows, columns = GRIDS[s]
        x = where[b, q, h, s, p, 0].item() * columns - 0.5
        y = where[b, q, h, s, p, 1].item() * rows - 0.5
        for i in (math.floor(y), math.floor(y) + 1):
            for j in (math.floor(x), math.floor(x) + 1):
                if 0 <= i < rows and 0 <= j < columns:
                    share = (1 - abs(y - i)) * (1 - abs(x - j)) * weights[b, q, h, s, p]
                    out[b, q, h] += share * value[b, starts[s] + i * columns + j, h]
    return out.flatten(2)


@pytest.mark.parametrize("shift", [0.0, -0.4, 0.7])
def test_points_are_bilinear_and_zero_outside(shift):
    value, where, weights = inputs()
    expected = by_hand(value, where + shift, weights)
    torch.testing.assert_close(deform_attend(value, GRIDS, where + shift, weights), expected)


def test_gradients_are_right():
    value, where, weights = (t.requires_grad_() for t in inputs())
    assert torch.autograd.gradcheck(
        lambda *t: deform_attend(t[0], GRIDS, t[1], t[2]), (value, where, weights), atol=1e-4
    )


@pytest.mark.ops
def test_it_equals_mmcv():
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value, where, weights = inputs(torch.float32)
    expected = multi_scale_deformable_attn_pytorch(value, torch.tensor(GRIDS), where, weights)
    torch.testing.assert_close(deform_attend(value, GRIDS, where, weights), expected)


@pytest.mark.gpu
@pytest.mark.ops
def test_the_compiled_operator_equals_plain_pytorch():
    tensors = inputs(torch.float32)
    on_gpu = [t.cuda().requires_grad_() for t in tensors]
    on_cpu = [t.requires_grad_() for t in tensors]
    for group in (on_gpu, on_cpu):
        deform_attend(group[0], GRIDS, group[1], group[2]).square().sum().backward()
    for a, b in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=1e-4, atol=1e-5)


def test_half_precision_samples_in_full():
    value, where, weights = inputs(torch.float32)
    exact = deform_attend(value.bfloat16().float(), GRIDS, where, weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = deform_attend(value.bfloat16(), GRIDS, where, weights)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, exact.bfloat16())


def test_a_large_map_keeps_its_points_in_bfloat16():
    """Neighbouring cells of a wide map are nearer than what bfloat16 tells apart."""
    grid = ((1, 512),)
    value = torch.arange(512.0).view(1, 512, 1, 1).bfloat16().float()
    where = cell_centres(grid, "cpu").view(1, 512, 1, 1, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = deform_attend(value, grid, where, torch.ones(1, 512, 1, 1, 1))
    torch.testing.assert_close(got.view(-1), value.view(-1))


def test_centres_of_cells():
    centres = cell_centres(((2, 4), (1, 1)), "cpu")
    assert centres.shape == (9, 2)
    assert centres[0].tolist() == [0.125, 0.25]
    assert centres[7].tolist() == [0.875, 0.75]
    assert centres[8].tolist() == [0.5, 0.5]


def test_heads_begin_with_all_directions_and_equal_weights():
    attention = DeformableAttention(16, 4, 2, 3, 0.5)
    offsets = attention.sampling_offsets.bias.view(4, 2, 3, 2)
    right, down, left, up = offsets[:, 0, 0]
    for got, want in ((right, (1, 0)), (down, (0, 1)), (left, (-1, 0)), (up, (0, -1))):
        torch.testing.assert_close(got, torch.tensor(want).float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, :, 2], 3 * offsets[:, :, 0])
    # The same everywhere, so a constant map gives a constant.
    keys = torch.ones(1, 30, 16)
    out = attention(torch.randn(1, 4, 16), ((2, 2),), keys, GRIDS)
    assert out.shape == (1, 4, 16)


def test_heads_must_divide_the_values():
    with pytest.raises(ValueError, match=r"values, 8 .* 3 heads"):
        DeformableAttention(16, 3, 1, 4, 0.5)
