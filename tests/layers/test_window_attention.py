import pytest
import torch

from mmonepeace.layers.encoder import EncoderLayer
from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.layers.resampling import resample_rel_pos
from mmonepeace.layers.window_attention import (
    GridAttention,
    window_partition,
    window_unpartition,
)
from mmonepeace.spec import Arch
from tests.conftest import randomise

ARCH = Arch(32, 2, 4, 24)


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (1, 1), (4, 9), (3, 2)])
def test_merging_undoes_cutting(grid):
    x = torch.randn(2, *grid, 6)
    windows, pad = window_partition(x, 4)
    assert windows.shape[1:] == (4, 4, 6)
    assert torch.equal(window_unpartition(windows, grid), x)
    count = (-(-grid[0] // 4)) * (-(-grid[1] // 4))
    if pad is None:
        assert grid[0] % 4 == grid[1] % 4 == 0
    else:
        assert pad.shape == (count, 16)
        assert (~pad).sum() == grid[0] * grid[1]
        assert windows[: len(pad)][pad.view(-1, 4, 4)].abs().sum() == 0


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_decomposed_positions_are_a_bias_of_each_query(grid):
    attention = randomise(GridAttention(ARCH, None, 4)).double()
    x = torch.randn(2, *grid, 32, dtype=torch.float64)
    bias = torch.randn(1, 4, grid[0] * grid[1], grid[0] * grid[1], dtype=torch.float64)
    q, k, v = attention.project_qkv(x.flatten(1, 2))
    rows = torch.arange(grid[0]).repeat_interleave(grid[1])
    columns = torch.arange(grid[1]).repeat(grid[0])
    tables = [
        resample_rel_pos(table, side)
        for table, side in zip((attention.rel_pos_h, attention.rel_pos_w), grid, strict=True)
    ]
    logits = q @ k.transpose(-1, -2) * 8**-0.5 + bias
    for place, table, side in zip((rows, columns), tables, grid, strict=True):
        offsets = place[:, None] - place + side - 1
        logits = logits + torch.einsum("bhqd,qkd->bhqk", q, table[offsets])
    expected = attention.merge_heads(logits.softmax(-1) @ v).unflatten(1, grid)
    torch.testing.assert_close(attention(x, DenseBias(bias)), expected)


def test_tables_that_start_at_zero_change_nothing():
    attention = GridAttention(ARCH, None, 4)
    plain = GridAttention(ARCH, None, None)
    plain.load_state_dict(attention.state_dict(), strict=False)
    x = torch.randn(1, 4, 4, 32)
    torch.testing.assert_close(attention(x, DenseBias()), plain(x, DenseBias()))


def build(window, rel_pos_side):
    return EncoderLayer(ARCH, ["image"], 0.0, 0.5, GridAttention(ARCH, window, rel_pos_side))


def test_a_patch_sees_only_its_window():
    layer = randomise(build(4, 4)).eval()
    bias = DenseBias(torch.randn(1, 4, 16, 16))
    x = torch.randn(1, 6, 9, 32)
    changed = x.clone()
    changed[0, 4:, 4:8] += 1
    difference = (layer(x, {"image": 54}, bias) - layer(changed, {"image": 54}, bias)).abs().sum(-1)
    assert (difference[0, 4:, 4:8] > 0).all()
    difference[0, 4:, 4:8] = 0
    assert difference.max() == 0


def test_padding_of_windows_changes_nothing_real():
    """A map of one window's size equals the same map in a larger window, but for its bias."""
    layer = randomise(build(4, None)).eval()
    wide = build(6, None).eval()
    wide.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4, 4, 32)
    zeros = (DenseBias(torch.zeros(1, 4, n, n)) for n in (16, 36))
    one, other = (
        module(x, {"image": 16}, bias) for module, bias in zip((layer, wide), zeros, strict=True)
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_resampling_relative_positions_to_the_same_side_is_identity():
    table = torch.randn(7, 3)
    assert resample_rel_pos(table, 4) is table
    assert resample_rel_pos(table, 6).shape == (11, 3)
    line = torch.linspace(-3, 3, 7)[:, None]
    middle = resample_rel_pos(line, 8)
    torch.testing.assert_close(middle, -middle.flip(0))
