import pytest
import torch

from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.layers.tokens import Tokens, no_bias, zero_padding


def make(name, batch, length, pad=None, bias=True, shared=True):
    value = torch.randn(1, 2, length, length)
    biased = (lambda block, dtype: DenseBias((value + block).to(dtype))) if bias else no_bias
    return Tokens(torch.randn(batch, length, 4), {name: length}, biased, shared, pad)


def test_joint_bias_is_block_diagonal():
    a, b = make("a", 3, 2), make("b", 3, 4)
    joint = Tokens.join([a, b])
    bias = joint.bias(0, torch.float32).dense()
    assert joint.lengths == {"a": 2, "b": 4}
    assert torch.equal(bias[0, :, :2, :2], a.bias(0, torch.float32).dense()[0])
    assert torch.equal(bias[0, :, 2:, 2:], b.bias(0, torch.float32).dense()[0])
    assert not bias[0, :, :2, 2:].any()
    assert not bias[0, :, 2:, :2].any()
    assert len(bias) == 1, "nothing is copied per sample"


def test_joint_padding_covers_parts_without_any():
    pad = torch.tensor([[False, True], [False, False]])
    joint = Tokens.join([make("a", 2, 3), make("b", 2, 2, pad)])
    assert joint.pad_BL.tolist() == [[False] * 4 + [True], [False] * 5]


@pytest.mark.parametrize("bias", [True, False])
def test_no_query_sees_a_padded_key(bias):
    pad = torch.tensor([[False, True], [False, False]])
    mask = make("a", 2, 2, pad, bias).masked_bias(0, torch.float32).dense()
    mask = mask.expand(2, -1, 2, 2)
    assert (mask[0, :, :, 1] == -torch.inf).all()
    assert mask[1].isfinite().all()


def test_a_mask_without_padding_is_dropped():
    x, pad = zero_padding(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    assert pad is None
    assert x.all()


def test_one_part_without_bias_joins_with_zeros():
    joint = Tokens.join([make("a", 1, 2, bias=False), make("b", 1, 2)])
    assert not joint.bias(0, torch.float32).dense()[0, :, :2, :2].any()
    both = Tokens.join([make("a", 1, 2, bias=False), make("b", 1, 2, bias=False)])
    assert both.bias(0, torch.float32).dense() is None


def test_one_unshared_bias_makes_the_joint_one_unshared():
    joint = Tokens.join([make("a", 1, 2), make("b", 1, 2, shared=False)])
    assert not joint.shared_bias
    first, second = (joint.bias(block, torch.float32).dense() for block in (0, 1))
    assert not torch.equal(first, second)


def test_split_undoes_join():
    a, b = make("a", 2, 3), make("b", 2, 5)
    joint = Tokens.join([a, b])
    parts = joint.split(joint.x_BLD)
    assert torch.equal(parts["a"], a.x_BLD)
    assert torch.equal(parts["b"], b.x_BLD)


def test_different_batches_are_refused():
    with pytest.raises(ValueError, match="batch sizes"):
        Tokens.join([make("a", 2, 3), make("b", 3, 3)])


PAD = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]]) > 0
KEEP = torch.tensor([[0, 2, 3], [0, 3, -1], [0, -1, -1]])


@pytest.mark.parametrize("known", [True, False])
def test_padding_for_the_cpu_follows_that_of_the_device(known):
    """Tensors on the meta device have no mask that a CPU could read."""
    readable = make("a", 3, 4, PAD)
    on_gpu = Tokens(torch.empty(3, 4, 4, device="meta"), {"a": 4}, pad_BL=PAD.to("meta"))
    on_gpu.cpu_pad_BL = PAD.numpy() if known else None
    keeps = [(KEEP,), (KEEP.to("meta"), KEEP.numpy())]
    for change in (
        lambda tokens, keep: tokens,
        lambda tokens, keep: tokens.keep(*keep),
        lambda tokens, keep: tokens.repeat(2),
        lambda tokens, keep: Tokens.join([Tokens(tokens.x_BLD, {"b": 4}), tokens]),
        lambda tokens, keep: Tokens.join([Tokens(tokens.x_BLD, {"b": 4}), tokens.keep(*keep)]),
    ):
        expected, found = (change(*each) for each in zip((readable, on_gpu), keeps, strict=True))
        assert found.knows_padding == known
        if known:
            assert found.known_pad_BL.tolist() == expected.pad_BL.tolist()
        else:
            assert found.known_pad_BL is None
    assert not on_gpu.keep(KEEP.to("meta")).knows_padding


def test_what_is_not_padded_is_known():
    tokens = Tokens(torch.empty(3, 4, 4, device="meta"), {"a": 4})
    assert tokens.knows_padding
    kept = tokens.keep(KEEP.to("meta"), KEEP.numpy())
    assert kept.known_pad_BL.tolist() == (KEEP < 0).tolist()


def test_masks_of_two_shapes_are_refused():
    x, pad = torch.empty(3, 4, 4, device="meta"), PAD.to("meta")
    tokens = Tokens(x, {"a": 4}, pad_BL=pad, cpu_pad_BL=PAD[:, 1:].numpy())
    with pytest.raises(ValueError, match=r"\(3, 4\), that for the CPU \(3, 3\).*the same mask"):
        _ = tokens.known_pad_BL
