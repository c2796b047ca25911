import pytest
import torch

from mmonepeace.layers.relative_position_bias import (
    RelativePositionBias1D,
    RelativePositionBias2D,
    rpb_index,
    rpb_index_1d,
)
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
