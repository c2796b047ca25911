import pytest
import torch

from mmonepeace.layers.kernels import attend
from mmonepeace.layers.mask_queries import (
    MaskHead,
    QueryBias,
    hidden_patches,
    mask_probability,
    with_queries,
)
from mmonepeace.layers.relative_position_bias import DenseBias, GridBias
from mmonepeace.layers.tokens import Tokens

BATCH, HEADS, GRID, QUERIES = 3, 2, (3, 4), 5
PATCHES = GRID[0] * GRID[1]
LENGTH = 1 + PATCHES


def image_bias():
    rows = (2 * GRID[0] - 1) * (2 * GRID[1] - 1) + 3
    return GridBias(torch.randn(rows, HEADS), GRID, cls_token=True)


def query_bias(hidden=None):
    return QueryBias(image_bias(), QUERIES, hidden, torch.float32)


def some_hidden():
    hidden = torch.rand(BATCH, QUERIES, PATCHES) < 0.5
    hidden[0, 0] = True  # a query that sees no patch
    return hidden


def test_there_is_bias_between_image_tokens_only():
    bias = query_bias()
    dense = bias.dense()
    assert dense.shape == (1, HEADS, LENGTH + QUERIES, LENGTH + QUERIES)
    assert torch.equal(dense[..., :LENGTH, :LENGTH], bias.image.dense())
    assert dense[..., LENGTH:, :].eq(0).all()
    assert dense[..., LENGTH:].eq(0).all()


def test_a_mask_hides_patches_from_queries_and_nothing_else():
    hidden = some_hidden()
    dense = query_bias(hidden).dense()
    assert dense.shape[0] == BATCH
    gone = dense == -torch.inf
    assert torch.equal(gone[:, 0, LENGTH:, 1:LENGTH], hidden)
    gone[..., LENGTH:, 1:LENGTH] = False
    assert not gone.any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_two_calls_give_what_the_dense_bias_gives_gradients_too(masked, backend):
    bias = query_bias(some_hidden() if masked else None)
    bias.image.table_NH.requires_grad_()
    q, k, v = (torch.randn(BATCH, HEADS, LENGTH + QUERIES, 8, requires_grad=True) for _ in range(3))
    inputs = (q, k, v, bias.image.table_NH)
    out = attend(q, k, v, bias, backend=backend)
    expected = attend(q, k, v, DenseBias(bias.dense()), backend="eager")
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    for one, other in zip(
        torch.autograd.grad((out * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_samples_are_selected_with_their_masks():
    bias = query_bias(some_hidden())
    assert torch.equal(bias.select([0, 2]).dense(), bias.dense()[[0, 2]])
    assert query_bias().select([1]).is_shared


def test_an_image_without_bias_has_none_with_queries_either():
    bias = QueryBias(DenseBias(), QUERIES, None, torch.float32)
    assert bias.dense() is None
    q, k, v = (torch.randn(1, HEADS, 4 + QUERIES, 8) for _ in range(3))
    torch.testing.assert_close(attend(q, k, v, bias), attend(q, k, v, DenseBias()))


@pytest.mark.parametrize("own", [False, True])
def test_queries_are_a_modality_of_their_own_if_their_ffn_is(own):
    image = Tokens(torch.randn(BATCH, LENGTH, 8), {"image": LENGTH}, shared_bias=True)
    joint = with_queries(image, torch.randn(BATCH, LENGTH + 2, 8), 2, None, own)
    assert joint.lengths == ({"image": LENGTH, "query": 2} if own else {"image": LENGTH + 2})
    assert joint.shared_bias


def test_the_mask_of_a_query_is_its_own_and_four_times_as_fine_as_patches():
    head = MaskHead(16)
    x = torch.randn(BATCH, LENGTH + QUERIES, 16)
    queries, masks = head(x, QUERIES, GRID)
    assert queries.shape == (BATCH, QUERIES, 16)
    assert masks.shape == (BATCH, QUERIES, 4 * GRID[0], 4 * GRID[1])
    order = torch.randperm(QUERIES)
    shuffled = torch.cat([x[:, :LENGTH], x[:, LENGTH:][:, order]], 1)
    torch.testing.assert_close(head(shuffled, QUERIES, GRID)[1], masks[:, order])


def test_patches_outside_of_a_mask_are_hidden_with_a_probability():
    masks = torch.randn(BATCH, QUERIES, 4 * GRID[0], 4 * GRID[1])
    masks[0, 0] = -1
    masks[1, 1] = 1
    hidden = hidden_patches(masks, GRID, 1.0)
    assert hidden.shape == (BATCH, QUERIES, PATCHES)
    assert hidden[0, 0].all()
    assert not hidden[1, 1].any()
    assert not hidden_patches(masks, GRID, 0.0).any()
    masks = torch.full((1, 10000, 2, 2), -1.0)
    assert hidden_patches(masks, (1, 1), 0.3).float().mean() == pytest.approx(0.3, abs=0.03)


def test_blocks_lose_their_masks_one_after_another():
    for count in (1, 3, 5):
        parts = count + 2
        for block in range(count):
            before, after = (1 + block) / parts, (2 + block) / parts
            assert mask_probability(0, block, count) == mask_probability(before, block, count) == 1
            assert mask_probability(after, block, count) == pytest.approx(0, abs=1e-9)
            assert mask_probability(1, block, count) == 0
            halfway = mask_probability((before + after) / 2, block, count)
            assert halfway == pytest.approx(0.5**0.9)
