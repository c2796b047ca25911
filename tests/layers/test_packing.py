import pytest
import torch

from mmonepeace.layers import packing
from mmonepeace.layers.encoder import FusionEncoder
from mmonepeace.layers.packing import PackedBias, PackedGroup, PackedTokens
from mmonepeace.layers.relative_position_bias import DenseBias, RelativePositionBias1D
from mmonepeace.layers.tokens import Tokens, no_bias, zero_padding
from mmonepeace.spec import Arch
from tests.layers.test_kernels import LENGTH, assert_like_eager

ARCH = Arch(16, 3, 2, 24)
PADS = {
    "none": None,
    "right": torch.arange(5) >= torch.tensor([[5], [2], [3], [1]]),
    "left": torch.arange(5) < torch.tensor([[0], [2], [3], [4]]),
    "between": torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 1, 1, 1]])
    > 0,
}


def make(name, pad=None, length=5, bias=True, shared=False):
    """Tokens of four samples, and what of them is trained."""
    table = torch.randn(1, 2, length, length, requires_grad=True)
    x = torch.randn(4, length, 16, requires_grad=True)
    biased = (lambda i, dtype: DenseBias(table * (i + 1))) if bias else no_bias
    padded, pad = (x, None) if pad is None else zero_padding(x, pad)
    tokens = Tokens(padded, {name: length}, biased, shared, pad)
    return tokens, [x, *([table] if bias else ())]


@pytest.mark.parametrize("pad", PADS)
def test_unpacking_undoes_packing(pad):
    tokens, _ = make("a", PADS[pad])
    joint = Tokens.join([make("b", length=2)[0], tokens])
    packed = PackedTokens([tokens, joint])
    real = 20 if PADS[pad] is None else int((~PADS[pad]).sum())
    assert packed.lengths == {"a": 2 * real, "b": 8}
    assert packed.x_BLD.shape == (1, 2 * real + 8, 16)
    for view, x in zip((tokens, joint), packed.unpack(packed.x_BLD), strict=True):
        assert torch.equal(x, view.x_BLD)


@pytest.mark.parametrize("pad", PADS)
def test_long_sequences_have_the_bias_of_their_tokens_alone(pad, monkeypatch):
    monkeypatch.setattr(packing, "MAX_PADDED_WORK", 0)
    tokens, _ = make("a", PADS[pad])
    whole = tokens.bias(1, torch.float32).dense()
    packed_bias = PackedTokens([tokens]).bias(1, torch.float32)
    if pad == "none":
        (group,) = packed_bias.groups
        assert torch.equal(group.bias.dense(), whole)
        assert packed_bias.counts == [5] * 4
        return
    assert packed_bias.counts == (~PADS[pad]).sum(1).tolist()
    for group, mask in zip(packed_bias.groups, ~PADS[pad], strict=True):
        assert torch.equal(group.bias.dense(), whole[..., mask, :][..., mask])


@pytest.mark.parametrize(("limit", "groups"), [(0, 4), (5**2 * 16, 1)])
def test_short_sequences_are_one_padded_batch(limit, groups, monkeypatch):
    monkeypatch.setattr(packing, "MAX_PADDED_WORK", limit)
    tokens, _ = make("a", PADS["right"])
    assert len(PackedTokens([tokens]).bias(1, torch.float32).groups) == groups


def test_a_bias_of_a_grid_stays_one_where_nothing_is_padded():
    rpb = RelativePositionBias1D(4, 2, 1)
    tokens = Tokens(torch.randn(4, 5, 16), {"a": 5}, lambda *args: rpb(5, *args), True)
    (group,) = PackedTokens([tokens]).bias(0, torch.float32).groups
    assert group.bias.grid == (4, 1)


def test_segments_are_runs_of_one_modality():
    lengths = ([{"a": 2}, {"a": 3, "b": 1}], [{"b": 4}, {"a": 1, "b": 2}])
    groups = [PackedGroup(DenseBias(), each) for each in lengths]
    packed_bias = PackedBias(groups)
    assert packed_bias.counts == [2, 4, 4, 3]
    assert packed_bias.segments == [("a", 5), ("b", 5), ("a", 1), ("b", 2)]
    some = packed_bias.select(torch.tensor([1, 3]))
    assert some.segments == [("a", 3), ("b", 1), ("a", 1), ("b", 2)]
    assert len(packed_bias.select(torch.tensor([3])).groups) == 1


@pytest.mark.parametrize("backend", ["auto", "blocks", "sdpa"])
def test_backends_attend_within_each_sequence(backend):
    def packed(values):
        groups = ((values[..., :-8, :-8], {"a": LENGTH - 8}), (values[..., :8, :8], {"b": 8}))
        return PackedBias([PackedGroup(DenseBias(value), [one]) for value, one in groups])

    assert_like_eager(backend, packed, batch=1)


@pytest.fixture(params=[0, 2**20], ids=["each", "short"])
def short(request, monkeypatch):
    """Attention of each sequence alone, or of padded batches."""
    monkeypatch.setattr(packing, "MAX_PADDED_WORK", request.param)


def gradients(encoder, outputs, views, leaves):
    """Outputs without padding, and gradients of all that is trained."""
    found = [
        out if view.pad_BL is None else out.masked_fill(view.pad_BL[..., None], 0)
        for out, view in zip(outputs, views, strict=True)
    ]
    loss = sum(out.square().sum() for out in found)
    return [*found, *torch.autograd.grad(loss, [*leaves, *encoder.parameters()], retain_graph=True)]


def assert_packing_changes_nothing(tokens, leaves, rate):
    encoder = FusionEncoder(ARCH, tokens.lengths, rate, 0.5).train()
    results = []
    for run in (lambda: encoder(tokens, [2]), lambda: encoder.encode_packed([tokens])):
        torch.manual_seed(5)
        results.append(gradients(encoder, run(), [tokens], leaves))
    for plain, skipped in zip(*results, strict=True):
        # A kept branch counts 1 / (1 - rate) times.
        scale = plain.abs().max().clamp(min=1)
        torch.testing.assert_close(plain / scale, skipped / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("joint", [False, True], ids=["alone", "joint"])
@pytest.mark.parametrize("pad", ["right", "left", "between"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.5, 0.99])
@pytest.mark.usefixtures("short")
def test_skipping_padding_changes_nothing_else(rate, with_bias, pad, joint):
    """Also with stochastic depth, down to no sample at all."""
    tokens, leaves = make("a", PADS[pad], bias=with_bias)
    if joint:
        other, others = make("b", length=3, bias=False)
        tokens, leaves = Tokens.join([tokens, other]), leaves + others
    assert_packing_changes_nothing(tokens, leaves, rate)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("short")
def test_kept_tokens_with_a_bias_for_each_sample_can_be_packed(shared):
    tokens, leaves = make("a", PADS["right"], shared=shared)
    tokens = tokens.keep(torch.tensor([[0, 2, 4], [0, 1, -1], [0, 2, 3], [0, -1, -1]]))
    assert_packing_changes_nothing(tokens, leaves, 0.5)


@pytest.mark.usefixtures("short")
def test_views_encoded_in_one_pass_are_those_encoded_one_after_the_other():
    encoder = FusionEncoder(ARCH, ["a", "b"], layer_scale_init=0.5)
    (a, of_a), (b, of_b), (c, of_c) = make("a", PADS["right"]), make("b", length=3), make("a")
    views, leaves = [a, b, Tokens.join([c, b])], [*of_a, *of_b, *of_c]
    alone = [encoder(view, [2])[0] for view in views]
    expected = gradients(encoder, alone, views, leaves)
    together = gradients(encoder, encoder.encode_packed(views), views, leaves)
    for plain, packed in zip(expected, together, strict=True):
        torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)
