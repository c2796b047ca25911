from unittest import mock

import numpy as np
import pytest
import torch

from mmonepeace.layers import packing
from mmonepeace.layers.encoder import FusionEncoder
from mmonepeace.layers.kernels import CPU_KERNELS
from mmonepeace.layers.packing import PackedBias, PackedGroup, PackedTokens
from mmonepeace.layers.relative_position_bias import (
    DenseBias,
    PaddedBias,
    RelativePositionBias1D,
)
from mmonepeace.layers.tokens import Tokens, no_bias, zero_padding
from mmonepeace.models import OnePeacePretrainer
from mmonepeace.spec import EOS_ID, Arch
from tests.conftest import randomise
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
    assert packed_bias.segments() == [("a", 5), ("b", 5), ("a", 1), ("b", 2)]
    some = packed_bias.segments([1, 3])
    assert some == packed_bias.select([1, 3]).segments()
    assert some == [("a", 3), ("b", 1), ("a", 1), ("b", 2)]
    assert len(packed_bias.select([3]).groups) == 1


@pytest.mark.parametrize("samples", [[0, 1], [1, 3], [0, 2, 3], [2]])
def test_some_sequences_are_unpacked_with_their_own_padding(samples):
    tokens, _ = make("a", PADS["right"])
    packed = PackedTokens([tokens])
    (group,) = packed.bias(0, torch.float32).select(samples).groups
    counts = packed.bias(0, torch.float32).counts
    x = packed.x_BLD[0].split(counts)
    heads = torch.cat([x[i] for i in samples]).view(1, -1, 2, 8).transpose(1, 2)
    padded = group.unpack(heads)
    assert torch.equal(padded.transpose(1, 2).flatten(2), tokens.x_BLD[samples])
    assert torch.equal(group.pack(padded), heads.transpose(1, 2))
    assert group.counts == [counts[i] for i in samples]
    assert group.bias.dense().isinf().any(1).flatten(1).any(1).tolist() == [i > 0 for i in samples]


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


@pytest.fixture
def as_on_a_gpu(kernels, monkeypatch):
    """Masks that a CPU does not read, attention of padded batches, stand-ins for its kernels."""
    monkeypatch.setattr(Tokens, "known_pad_BL", property(lambda tokens: tokens.cpu_pad_BL))
    monkeypatch.setattr(packing, "MAX_PADDED_WORK", float("inf"))
    plain = Tokens.masked_bias

    def masked(tokens, *args):
        bias = tokens.bias(*args)
        is_biased = bias.grid is not None or bias.dense() is not None
        padded = tokens.pad_BL is not None and is_biased
        return PaddedBias(bias, tokens.pad_BL) if padded else plain(tokens, *args)

    monkeypatch.setattr(Tokens, "masked_bias", masked)
    return kernels


def padded(encoder, views):
    """What `FusionEncoder.encode_packed` returned if it packed nothing."""
    return [encoder.bind(view)(view.x_BLD, 0, len(encoder)) for view in views]


@pytest.mark.parametrize("stage", ["vl", "al"])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_pretraining_as_on_a_gpu_changes_nothing_but_the_padding(stage, kernels, monkeypatch):
    """In float64, with padded texts, clips and kept tokens, alone and joint; both stages."""
    other = {"vl": dict(image={}), "al": dict(audio=dict(feature_dim=8, pos_groups=4))}[stage]
    backbone = dict(
        arch=dict(embed_dim=16, depth=2, num_heads=2, ffn_dim=24), img_size=32,
        modalities=dict(text=dict(vocab_size=20)) | other, final_norm=True, attention="recomputed",
    )  # fmt: skip
    decoder = dict(embed_dim=8, depth=1, num_heads=2, ffn_dim=16)
    model = randomise(OnePeacePretrainer(backbone, stage, decoder, learn_all=True)).double()
    texts = [torch.tensor([5, 6, 7, 9, EOS_ID]), torch.tensor([8, EOS_ID]), torch.tensor([EOS_ID])]
    inputs = {"text": texts}
    if stage == "vl":
        inputs["image"] = list(torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8))
        kept = [np.array(row) for row in ([0, 2, 4], [0, 1], [0])]
    else:
        inputs["audio"] = [torch.randn(n) for n in (4000, 1200, 2000)]
        kept = [np.array(row) for row in ([0, 1, 4, 9], [0, 3], [0, 2, 5])]
    words = [np.array(row) for row in ([0, 1, 5], [0, 2], [0])]
    keep = {"text": words, list(inputs)[1]: kept}
    batch = model.data_preprocessor({"inputs": inputs, "keeps": {"alone": keep, "joint": keep}})
    name, value = list(batch["inputs"].items())[1]
    first, *rest = value if isinstance(value, tuple) else (value,)
    batch["inputs"][name] = (first.double(), *rest)

    def results():
        losses = model.parse_losses(model(**batch, mode="loss"))[0]
        trained = [p for p in model.parameters() if p.requires_grad]
        return losses, torch.autograd.grad(losses, trained, allow_unused=True)

    packed = results()
    assert kernels, "its kernels are used"
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = "eager"
    monkeypatch.setattr(FusionEncoder, "encode_packed", padded)
    torch.testing.assert_close(packed, results(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_linear_layers_see_real_tokens_only(device):
    """And each FFN those of its modality; a GPU needs the padding that the CPU knows."""
    pads = {"text": PADS["right"], "audio": PADS["right"].flip(0)}
    views = {
        name: Tokens(
            torch.randn(4, 5, 16).to(device),
            {name: 5},
            pad_BL=pad.to(device),
            cpu_pad_BL=pad.numpy(),
        )
        for name, pad in pads.items()
    }
    joint = Tokens.join([*views.values(), Tokens(torch.randn(4, 3, 16).to(device), {"image": 3})])
    encoder = FusionEncoder(ARCH, joint.lengths).to(device)
    rows = {}
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: rows.update({name: inputs[0].shape[:-1].numel()})
            )
    with mock.patch.dict(CPU_KERNELS, clear=True):  # which pass by the hooks
        encoder.encode_packed([joint, views["text"]])
    real = 11
    for name, count in rows.items():
        modality = next((part for part in joint.lengths if part in name.split(".")), None)
        expected = {"text": 2 * real, "audio": real, "image": 12, None: 3 * real + 12}[modality]
        assert count == expected, name
    assert len(rows) == 3 * (4 + 2 + 3 * 4 + 1)
    unknown = Tokens(views["text"].x_BLD, {"text": 5}, pad_BL=views["text"].pad_BL)
    with mock.patch.dict(CPU_KERNELS, clear=True):
        encoder.encode_packed([unknown])
    assert rows["0.norm1"] == (20 if device == "meta" else real), "no wait"
