import pytest
import torch

from mmonepeace.layers.relative_position_bias import (
    GridBias,
    RelativePositionBias1D,
    RelativePositionBias2D,
    rpb_index,
    rpb_index_1d,
    sums_over_offsets,
)
from mmonepeace.layers.resampling import num_rpb_rows
from mmonepeace.spec import MAX_POSITIONS


def test_bias_has_one_copy_for_the_batch():
    bias = RelativePositionBias2D([4] * 3, 2)
    assert bias((4, 4), 1, torch.float32).dense().shape == (1, 2, 17, 17)


@pytest.mark.parametrize("length", [1, 2, 3, 40, MAX_POSITIONS])  # 1: CLS alone
def test_bias_of_a_sequence_is_that_of_its_offsets(length):
    rpb = RelativePositionBias1D(16, 2, 3)
    torch.nn.init.normal_(rpb.tables[1])
    expected = rpb.tables[1].t()[:, rpb_index_1d(16, length).long()][None]
    assert torch.equal(rpb(length, 1, torch.float32).dense(), expected)


def test_index_made_under_inference_mode_serves_training():
    rpb_index.cache_clear()
    bias = RelativePositionBias2D([4], 2)
    with torch.inference_mode():
        bias((5, 7), 0, torch.float32).dense()
    bias((5, 7), 0, torch.float32).dense().sum().backward()
    # Each of 36 x 36 pairs has one entry of the table, for both heads; resizing keeps the sum.
    assert bias.tables[0].grad.sum().item() == pytest.approx(2 * 36**2)


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("grid", [(1, 1), (4, 5), (7, 1), (1, 6)])
def test_pairs_are_added_up_by_their_offset(grid, cls_token, monkeypatch):
    monkeypatch.setattr("mmonepeace.layers.relative_position_bias._SKEWED_NUMBERS", 1)
    index = rpb_index(grid, "cpu", cls_token)
    pairs = torch.randn(3, *index.shape, dtype=torch.float64)
    expected = torch.zeros(num_rpb_rows(grid), 3, dtype=torch.float64)
    expected.index_add_(0, index.flatten(), pairs.flatten(1).t())
    torch.testing.assert_close(sums_over_offsets(pairs, grid, cls_token), expected)


def test_gradient_of_the_table_in_half_precision_is_a_float32_sum():
    """Added up one by one in bfloat16, a thousand ones make 256."""
    grid = (32, 32)
    table = torch.zeros(num_rpb_rows(grid), 1, dtype=torch.bfloat16, requires_grad=True)
    GridBias(table, grid, True).dense().sum().backward()
    expected = torch.bincount(rpb_index(grid).flatten().long(), minlength=len(table))
    torch.testing.assert_close(table.grad[:, 0], expected.bfloat16())
