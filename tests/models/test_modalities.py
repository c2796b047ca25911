"""Laws of the three branches: what must hold whatever the weights are."""

import itertools

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.layers import adapters
from mmonepeace.layers.adapters import Adapter
from mmonepeace.layers.relative_position_bias import RelativePositionBias1D
from mmonepeace.models import OnePeace, OnePeaceClassifier, OnePeaceRetriever
from mmonepeace.spec import num_audio_frames
from tests.conftest import TINY, randomise

TEXT = {"vocab_size": 60, "num_buckets": 8}
AUDIO = {"feature_dim": 8, "num_buckets": 16, "pos_depth": 2, "pos_kernel": 5, "pos_groups": 4}
OPTIONS = {"text": TEXT, "image": {}, "audio": AUDIO}
COMBINATIONS = [c for n in (1, 2, 3) for c in itertools.combinations(OPTIONS, n)]


def make(modalities=tuple(OPTIONS), model=OnePeace, **options):
    backbone = dict(
        arch=TINY,
        modalities={name: OPTIONS.get(name, {}) for name in modalities},
        img_size=64,
        final_norm=True,
        **options,
    )
    return randomise(model(backbone) if model is not OnePeace else OnePeace(**backbone)).eval()


def make_inputs(batch=3):
    ids = torch.randint(4, 60, (batch, 6))
    ids[0, 3:] = torch.tensor([2, 1, 1])  # the first text is short
    samples = torch.tensor([3000, *[5000] * (batch - 1)])
    waves = torch.randn(batch, 5000) * (torch.arange(5000) < samples[:, None])
    frames = torch.tensor([num_audio_frames(int(n)) for n in samples])
    pad = torch.arange(num_audio_frames(5000)) >= frames[:, None]
    return {"text": ids, "image": torch.randn(batch, 3, 48, 64), "audio": (waves, pad)}


def pick(inputs, index):
    def rows(x):
        return tuple(map(rows, x)) if isinstance(x, tuple) else x[index]

    return {name: rows(value) for name, value in inputs.items()}


def encode(model, inputs, **options):
    """Features, zero where there is padding."""
    with torch.no_grad():
        tokens = model.embed(inputs, **options)
        features = model.encode(tokens)
    pads = tokens.split(
        torch.zeros(tokens.x_BLD.shape[:2], dtype=torch.bool)
        if tokens.pad_BL is None
        else tokens.pad_BL
    )
    return {name: x.masked_fill(pads[name][..., None], 0) for name, x in features.items()}


def close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rpb", ["shared", "per_block"])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_any_combination_is_encoded_forward_and_backward(names, rpb):
    model = make(names, rpb=rpb)
    inputs = {name: value for name, value in make_inputs().items() if name in names}
    features = model.encode(model.embed(inputs))
    assert list(features) == list(names)
    sum(x.square().sum() for x in features.values()).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_text_stands_first_whatever_the_order_of_modalities_and_inputs():
    inputs = make_inputs()
    model = make(("audio", "text", "image"))
    assert list(model.adapters) == ["text", "image", "audio"]
    backwards = dict(reversed(inputs.items()))
    assert list(model.embed(backwards).lengths) == ["text", "image", "audio"]
    close(encode(model, inputs), encode(model, backwards))


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_permuting_the_batch_permutes_the_output(names):
    model, inputs = make(), {n: v for n, v in make_inputs().items() if n in names}
    order = torch.tensor([2, 0, 1])
    whole = encode(model, inputs)
    close(encode(model, pick(inputs, order)), {n: x[order] for n, x in whole.items()})


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_padding_changes_no_real_token(names):
    """The first sample has a short text and a short clip; alone it needs no padding."""
    model, inputs = make(), {n: v for n, v in make_inputs().items() if n in names}
    whole = encode(model, inputs)
    waves = make_inputs()["audio"][0]
    alone = pick(inputs, slice(0, 1))
    if "text" in names:
        alone["text"] = alone["text"][:, :4]
    if "audio" in names:
        waves = alone["audio"][0][:, :3000]
        alone["audio"] = waves
    single = encode(model, alone)
    close({n: whole[n][:1, : x.shape[1]] for n, x in single.items()}, single)


def test_compat_audio_padding_leaks_into_the_last_frames_only():
    inputs = {"audio": make_inputs()["audio"]}
    model = make(("audio",))
    masked = model.embed(inputs).x_BLD
    model.adapters["audio"].padding = "compat"
    compat = model.embed(inputs).x_BLD
    changed = (masked - compat).abs().amax(2) > 1e-5
    last = num_audio_frames(3000)
    assert changed[0, last]
    assert not changed[0, : last - 3].any()
    assert not changed[1:].any()


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_keeping_every_token_is_not_masking(names):
    model = make()
    inputs = {n: pick(make_inputs(), slice(1, 3))[n] for n in names}
    whole = encode(model, inputs)
    keep = {n: torch.arange(x.shape[1]).expand(2, -1) for n, x in whole.items()}
    close(encode(model, inputs, keep=keep), whole)


def test_padding_kept_positions_changes_nothing():
    model, image = make(("image",)), torch.randn(1, 3, 64, 64)
    short = encode(model, {"image": image}, keep={"image": torch.tensor([[0, 3, 5]])})
    padded = encode(model, {"image": image}, keep={"image": torch.tensor([[0, 3, 5, -1, -1]])})
    close({"image": padded["image"][:, :3]}, short)


@pytest.mark.parametrize("name", OPTIONS)
def test_one_modality_does_not_depend_on_which_others_the_model_has(name):
    whole, inputs = make(), {name: make_inputs()[name]}
    expected = encode(whole, inputs)
    for names in COMBINATIONS:
        if name in names:
            part = make(names)
            part.load_state_dict(
                {k: v for k, v in whole.state_dict().items() if k in part.state_dict()}
            )
            close(encode(part, inputs), expected)


def test_activation_checkpointing_changes_nothing():
    model, inputs = make(rpb="per_block"), make_inputs()
    gradients = []
    for with_cp in (False, True):
        model.layers.with_cp = with_cp
        model.zero_grad()
        sum(x.square().sum() for x in model.encode(model.embed(inputs)).values()).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_stochastic_depth_drops_samples_with_their_own_bias():
    """Per-sample bias (padding) follows the samples that are kept."""
    model = make(drop_path_rate=0.5).train()
    features = model.encode(model.embed(make_inputs(8)))
    assert all(x.isfinite().all() for x in features.values())


def test_a_vision_model_has_no_parameter_of_another_modality():
    names = set(OnePeace(TINY).state_dict())
    assert not [n for n in names if "text" in n or "audio" in n]


def test_frozen_stages_and_depths_cover_all_adapters():
    model = make(rpb="per_block", frozen_stages=1)
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not [n for n in trains if n.startswith(("layers.0.", "adapters.")) and "tables" not in n]
    for name in OPTIONS:
        assert f"adapters.{name}.rpb.tables.0" not in trains
        assert f"adapters.{name}.rpb.tables.1" in trains
        assert model.get_layer_depth(f"adapters.{name}.rpb.tables.1") == (2, 5)
        assert model.get_layer_depth(f"adapters.{name}.cls_token") == (0, 5)


class Series(Adapter):
    """A toy modality: one number per step."""

    def __init__(self, modality, arch, num_tables, num_buckets=4):
        super().__init__(modality, arch)
        self.proj = torch.nn.Linear(1, arch.embed_dim)
        self.rpb = RelativePositionBias1D(num_buckets, arch.num_heads, num_tables)

    def features(self, steps_BT):
        def bias(block, dtype):
            return self.rpb(steps_BT.shape[1] + 1, block, dtype)

        return self.assemble(self.proj(steps_BT[..., None]), 0, bias)


def test_a_fourth_modality_is_one_class_and_one_entry(monkeypatch, tmp_path):
    monkeypatch.setitem(adapters.ADAPTERS, "series", Series)
    names = (*OPTIONS, "series")
    for rpb in ("shared", "per_block"):
        model = make(names, rpb=rpb)
        inputs = make_inputs() | {"series": torch.randn(3, 7)}
        assert encode(model, {"series": inputs["series"]})["series"].shape == (3, 8, 32)
        features = encode(model, inputs)
        assert list(features) == list(names)
        keep = {"series": torch.tensor([[0, 2, 4]] * 3)}
        assert encode(model, inputs, keep=keep)["series"].shape == (3, 3, 32)
        assert model.get_layer_depth("adapters.series.proj.weight")[0] == 0
    retriever = make(names, OnePeaceRetriever)
    embeddings = retriever(inputs)
    torch.testing.assert_close(embeddings["series"].norm(dim=1), torch.ones(3))
    path = tmp_path / "own.safetensors"
    checkpoint.write(path, checkpoint.Conversion(retriever.state_dict(), {"format": "mmonepeace"}))
    again = make(names, OnePeaceRetriever)
    again.load_checkpoint(path)
    assert torch.equal(again(inputs)["series"], embeddings["series"])


@pytest.mark.parametrize(
    ("inputs", "words"),
    [({}, "inputs are"), ({"video": torch.zeros(1)}, "video"), ({"audio": torch.zeros(1)}, "this")],
)
def test_inputs_that_the_model_does_not_have_are_refused(inputs, words):
    with pytest.raises(ValueError, match=words):
        make(("text", "image")).embed(inputs)


def test_unpaired_batches_are_refused():
    inputs = make_inputs() | {"image": torch.randn(2, 3, 48, 64)}
    with pytest.raises(ValueError, match="batch sizes"):
        make().embed(inputs)


def test_clip_length_follows_the_checkpoint_unless_it_is_chosen():
    stored = {"audio_clip_seconds": "1.5"}
    for options, expected in (({}, 1.5), (dict(clip_seconds=10), 10)):
        model = OnePeace(TINY, {"audio": AUDIO | options})
        model.adopt_metadata(stored)
        assert model.adapters["audio"].clip_seconds == expected
        assert float(model.metadata()["audio_clip_seconds"]) == expected
    assert model.adapters["audio"].metadata() == {
        "audio_padding": "masked",
        "audio_clip_seconds": "10",
    }


def test_audio_padding_follows_the_checkpoint_unless_it_is_chosen():
    model = make(("audio",))
    assert model.metadata()["audio_padding"] == "masked"
    model.adopt_metadata({"audio_padding": "compat"})
    assert model.metadata()["audio_padding"] == "compat"
    chosen = OnePeace(TINY, {"audio": AUDIO | {"padding": "masked"}})
    with pytest.warns(UserWarning, match="'compat'"):
        chosen.adopt_metadata({"audio_padding": "compat"})
    assert chosen.metadata()["audio_padding"] == "masked"


def test_embeddings_have_unit_length_and_the_scale_stays_in_its_range():
    model = make(model=OnePeaceRetriever)
    for x in model(make_inputs()).values():
        torch.testing.assert_close(x.norm(dim=1), torch.ones(3))
    for value, expected in ((-1.0, 1.0), (2.0, 7.389056), (9.0, 100.0)):
        model.logit_scale.data.fill_(value)
        assert model.scale().item() == pytest.approx(expected)


def test_a_classifier_pools_the_modality_it_is_told():
    inputs = {n: v for n, v in make_inputs().items() if n != "audio"}
    backbone = dict(arch=TINY, modalities={"text": TEXT, "image": {}}, img_size=64)
    logits = {}
    for pool_over in (None, "text", "image"):
        torch.manual_seed(0)
        model = OnePeaceClassifier(backbone, {"num_classes": 5}, pool_over).eval()
        logits[pool_over] = model(inputs)
    assert torch.equal(logits[None], logits["text"])
    assert not torch.allclose(logits["text"], logits["image"])
    with pytest.raises(ValueError, match="views"):
        model([inputs, inputs])
