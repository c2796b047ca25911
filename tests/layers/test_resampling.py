import pytest
import torch
from scipy.interpolate import RectBivariateSpline

from mmonepeace.layers.relative_position_bias import rpb_index, rpb_index_1d
from mmonepeace.layers.resampling import (
    num_rpb_rows,
    resample_pos_embed,
    resample_rpb,
    rpb_side,
    sine_positions,
)


def test_index_of_two_patches_is_their_offset():
    rows, cols = 3, 5
    index = rpb_index((rows, cols))
    for p in range(rows * cols):
        for q in range(rows * cols):
            dy, dx = p // cols - q // cols, p % cols - q % cols
            assert index[p + 1, q + 1] == (dy + rows - 1) * (2 * cols - 1) + dx + cols - 1


def test_cls_has_three_rows_of_its_own_and_its_column_wins():
    index, n = rpb_index((2, 3)), num_rpb_rows((2, 3))
    assert (index[0, 1:] == n - 3).all()
    assert (index[1:, 0] == n - 2).all()
    assert index[0, 0] == n - 1
    assert index[1:, 1:].max() == n - 4


def test_index_maps_are_cached_and_small():
    assert rpb_index((4, 7)) is rpb_index((4, 7))
    assert rpb_index((4, 7)).dtype == torch.int32


def test_resampling_to_same_grid_is_identity():
    table = torch.randn(num_rpb_rows((7, 7)), 2)
    assert resample_rpb(table, 7, (7, 7)) is table
    positions = torch.randn(50, 4)
    assert resample_pos_embed(positions, (7, 7)) is positions


def test_an_axis_that_keeps_its_side_is_left_alone():
    table = torch.randn(num_rpb_rows((6, 6)), 2)
    wide = resample_rpb(table, 6, (6, 9))[:-3].view(11, 17, 2)
    square = resample_rpb(table, 6, (9, 9))[:-3].view(17, 17, 2)
    # Columns alone are resampled: a changed row of offsets changes that row and no other.
    changed = table.clone()
    changed[4 * 11 : 5 * 11] += 1
    other = resample_rpb(changed, 6, (6, 9))[:-3].view(11, 17, 2)
    assert (other != wide).flatten(1).any(1).nonzero().flatten().tolist() == [4]
    tall = resample_rpb(table, 6, (9, 6))[:-3].view(17, 11, 2)
    assert wide.shape[0] == 11
    assert tall.shape[1] == 11
    assert torch.equal(resample_rpb(table, 6, (9, 9))[-3:], table[-3:])
    assert square.shape == (17, 17, 2)


@pytest.mark.parametrize(("old", "new"), [(16, 32), (16, 24), (16, 14), (4, 6), (8, 3), (32, 56)])
def test_geometric_resampling_equals_a_bicubic_spline(old, new):
    """Against scipy, with the coordinates written out anew."""
    s, t = 2 * old - 1, 2 * new - 1
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q ** (s // 2)) / (1 - q) > t // 2 else (q, high)
    steps = [sum(q**i for i in range(j + 1)) for j in range(s // 2)]
    x = [-d for d in reversed(steps)] + [0] + steps
    u = [min(max(v, x[0]), x[-1]) for v in range(-(t // 2), t // 2 + 1)]
    table = torch.randn(s * s + 3, 2, dtype=torch.float64)
    got = resample_rpb(table, old, (new, new))
    for head in range(2):
        spline = RectBivariateSpline(x, x, table[:-3, head].view(s, s).numpy(), s=0)
        want = torch.from_numpy(spline(u, u)).flatten()
        torch.testing.assert_close(got[:-3, head], want, rtol=1e-9, atol=1e-9)


def test_golden_values_of_the_specification():
    i, j = torch.meshgrid(torch.arange(31.0), torch.arange(31.0), indexing="ij")
    z = torch.sin(0.3 * i) * torch.cos(0.2 * j) + 0.01 * i
    table = torch.cat([z.reshape(-1, 1), torch.zeros(3, 1)])
    small = resample_rpb(table, 16, (24, 24))[:-3].view(47, 47)
    large = resample_rpb(table, 16, (56, 56))[:-3].view(111, 111)
    for grid, values in (
        (small, {(0, 0): 0.0, (23, 23): 1.117747, (22, 24): 1.010090, (46, 5): 0.667648}),
        (large, {(0, 110): 0.0, (55, 55): 1.117747, (58, 48): 0.523784, (10, 20): 0.307863}),
    ):
        for place, value in values.items():
            assert grid[place] == pytest.approx(value, abs=2e-6)
    assert small.sum() == pytest.approx(433.76812, abs=1e-3)
    assert large.sum() == pytest.approx(4176.03515, abs=1e-2)


@pytest.mark.parametrize("old", [1, 2, 3])
def test_the_smallest_tables_resample_too(old):
    table = torch.randn(num_rpb_rows((old, old)), 2)
    assert resample_rpb(table, old, (1, 5)).isfinite().all()


def test_resampling_passes_gradients_to_the_table():
    table = torch.randn(num_rpb_rows((4, 4)), 1, requires_grad=True, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: resample_rpb(t, 4, (3, 6)), table)


def test_half_precision_tables_are_resampled_in_full_precision():
    table = torch.randn(num_rpb_rows((4, 4)), 2).bfloat16()
    exact = resample_rpb(table.float(), 4, (6, 6))
    assert torch.equal(resample_rpb(table, 4, (6, 6)), exact.bfloat16())


@pytest.mark.parametrize("rows", [963, 4 + 3, 5, 3])
def test_rows_of_no_square_grid_are_refused(rows):
    with pytest.raises(ValueError, match=str(rows)):
        rpb_side(rows)


def test_side_and_rows_are_inverse():
    for side in (1, 2, 16, 56, 80):
        assert rpb_side(num_rpb_rows((side, side))) == side


def test_a_table_that_does_not_match_its_grid_is_refused():
    with pytest.raises(ValueError, match="964"):
        resample_rpb(torch.zeros(10, 2), 16, (4, 4))
    with pytest.raises(ValueError, match="not a square"):
        resample_pos_embed(torch.zeros(12, 2), (4, 4))


# The values that the specification of the official map gives.
@pytest.mark.parametrize(
    ("buckets", "values"),
    [
        (256, {0: 255, 128: 383, 129: 384, 130: 384, 133: 386, 200: 411, 500: 467, 999: 509}),
        (256, {1007: 510, -1: 254, -128: 127, -129: 126}),
        (512, {0: 511, 256: 767, 257: 768, 258: 769, 500: 891, 999: 1018, -256: 255, -257: 254}),
    ],
)
def test_bucket_of_a_distance(buckets, values):
    index = rpb_index_1d(buckets, 1024)
    for distance, bucket in values.items():
        query, key = (distance + 1, 1) if distance >= 0 else (1, 1 - distance)
        assert index[query, key] == bucket


def test_1d_index_of_a_prefix_is_a_prefix_of_the_index():
    assert torch.equal(rpb_index_1d(32, 20), rpb_index_1d(32, 100)[:20, :20])


def test_1d_index_reaches_every_row_and_no_other():
    assert rpb_index_1d(8, 1024).unique().tolist() == [*range(15), 15, 16, 17]


def test_a_sequence_beyond_the_reach_is_refused():
    with pytest.raises(ValueError, match="1025 tokens"):
        rpb_index_1d(256, 1025)


def test_sines_tell_rows_from_columns_and_near_from_far():
    positions = sine_positions((5, 7), 16).view(5, 7, 16)
    assert positions.abs().max() <= 1
    rows, columns = positions[..., :8], positions[..., 8:]
    assert (rows == rows[:, :1]).all()
    assert (columns == columns[:1]).all()
    distances = (positions[2, 3] - positions[2]).norm(dim=-1)
    assert (distances[3:].diff() > 0).all()
    assert (distances[:4].diff() < 0).all()
    assert (sine_positions((2, 2), 7)[:, 4:] == 0).all()
