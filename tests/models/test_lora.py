"""LoRA: the same sum in every path as with merged weights, and gradients that reach it."""

import copy
import json
import sys
from functools import partialmethod

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.engine import optim
from mmonepeace.layers import kernels
from mmonepeace.models import OnePeace, OnePeacePretrainer, OnePeaceViTAdapter, OnePeaceViTDet
from mmonepeace.models.lora import TARGETS, load_lora, names, use_lora
from tests.conftest import TINY, randomise

ALL = dict(rank=4, alpha=6.0, targets=tuple(TARGETS))
MODALITIES = {"text": {"vocab_size": 20, "num_buckets": 8}, "image": {}}


@pytest.fixture(autouse=True)
def with_peft(request):
    if "without" not in request.node.name:
        pytest.importorskip("peft")


def build(cls=OnePeace, lora=ALL, **options):
    options = dict(img_size=64, rpb="per_block", layer_scale_init=0.5) | options
    return cls(TINY, lora=lora, **options)


def distance(got, expected):
    """Relative to the size of what is expected."""
    return ((got - expected).float().norm() / expected.float().norm()).item()


def plain_twin(model, **options):
    """A model without LoRA, of the merged weights."""
    weights = checkpoint.merged(model.state_dict(), model.metadata())
    twin = build(type(model), None, **options).train(model.training)
    twin.load_state_dict(weights)
    return twin


@pytest.fixture(params=["CPU kernels", "plain"])
def kernels_in_use(request, monkeypatch):
    """Kernels of CPUs for tensors of any size, or none."""
    entries = {name: entry._replace(min_numel=0) for name, entry in kernels.CPU_KERNELS.items()}
    monkeypatch.setattr(kernels, "CPU_KERNELS", entries if request.param != "plain" else {})


@pytest.mark.parametrize("cls", [OnePeace, OnePeaceViTDet])
@pytest.mark.parametrize("targets", [("q", "v"), tuple(TARGETS)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.usefixtures("kernels_in_use")
def test_it_equals_the_merged_model_and_gradients_reach_it(cls, targets, dtype, with_cp):
    options = dict(with_cp=with_cp)
    if cls is OnePeaceViTDet:
        options |= dict(window_size=3, global_blocks=[1])
    model = randomise(build(cls, ALL | dict(targets=targets), **options)).train()
    twin = plain_twin(model, **options)
    image = torch.randn(2, 3, 64, 96)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        (got,), (expected,) = model(image), twin(image)
        use_lora(model, None)
        (base,) = model(image)
        use_lora(model, "default")
    exact = dtype == torch.float32
    assert distance(got, expected) < (1e-5 if exact else 0.1)
    assert distance(got, base) > 3 * distance(got, expected)
    got.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name), name
        assert (parameter.grad is not None and parameter.grad.any()) == (".lora_" in name), name
    if exact and targets == ("q", "v"):
        expected.square().mean().backward()
        gradient = twin.get_parameter("layers.0.attn.q_proj.weight").grad
        layer = model.layers[0].attn.q_proj
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(a.grad, 1.5 * b.T @ gradient, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(b.grad, 1.5 * gradient @ a.T, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("kernels_in_use")
def test_it_equals_the_merged_model_in_joint_and_packed_sequences():
    options = dict(modalities=MODALITIES, final_norm=True)
    model = randomise(build(**options)).eval()
    twin = plain_twin(model, **options)
    ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    inputs = {"text": ids, "image": torch.randn(2, 3, 64, 64)}
    for skip_padding in (False, True):
        got, expected = (
            m.encode(m.embed(inputs), skip_padding=skip_padding) for m in (model, twin)
        )
        for name in inputs:
            assert distance(got[name][:, 0], expected[name][:, 0]) < 1e-5
    views = [model.embed({name: inputs[name]}) for name in inputs]
    packed = model.encode_views(views)
    alone = [twin.encode(twin.embed({name: inputs[name]})) for name in inputs]
    for got, expected in zip(packed, alone, strict=True):
        for name in expected:
            assert distance(got[name][:, 0], expected[name][:, 0]) < 1e-5


def test_it_starts_as_the_base(tmp_path):
    plain = randomise(build(lora=None)).eval()
    path = tmp_path / "base.safetensors"
    checkpoint.write(path, checkpoint.to_own(plain.state_dict(), plain.metadata()))
    model = build().eval()
    report = model.load_checkpoint(str(path))
    assert not report.missing
    assert not report.unused
    image = torch.randn(1, 3, 64, 64)
    assert distance(model(image)[0], plain(image)[0]) < 1e-5


def test_the_vit_adapter_stays_trained():
    arch = TINY | {"depth": 4}
    model = OnePeaceViTAdapter(arch, img_size=64, lora=ALL, norm_cfg=dict(type="BN"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"layers", "vit_adapter"}
    assert all(".lora_" in name for name in trained if name.startswith("layers."))
    maps = randomise(model)(torch.randn(2, 3, 64, 64))
    sum(x.square().mean() for x in maps).backward()
    assert model.layers[0].attn.q_proj.lora_A["default"].weight.grad.any()


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((), set()),
        (("rpb",), {"adapters.image.rpb.tables.0"}),
        (("layer_scale",), {"layers.0.gamma_1", "layers.0.gamma_2"}),
        (("norm",), {"layers.0.attn.norm.weight", "layers.0.norm1.bias", "layers.0.norm2.weight"}),
        (("bias",), {"layers.0.attn.q_proj.bias", "layers.0.norm1.bias"}),
        (("position",), {"adapters.image.pos_embed", "adapters.image.cls_token"}),
    ],
)
@pytest.mark.parametrize("lora", [None, ALL])
def test_groups_of_parameters_are_trained_without_peft_too(groups, expected, lora):
    if lora:
        pytest.importorskip("peft")
    model = build(lora=lora, trained=groups).train()
    trained = {n for n, p in model.named_parameters() if p.requires_grad and ".lora_" not in n}
    trained = {checkpoint.base_name(name) for name in trained}
    assert expected <= trained
    assert bool(trained) == bool(groups)
    weights = {"bias": (), "norm": ("norm", "stem")}.get(groups[0] if groups else "")
    if weights is not None:
        assert all(any(w in n for w in weights) for n in trained if n.endswith("weight"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lora=dict(rank=0)), "rank 0"),
        (dict(lora=dict(targets=["query"])), "choose one or more of q, k, v"),
        (dict(lora=dict(rank=2), frozen_stages=1), "Leave it out"),
        (dict(lora=None, trained=["bias", "heads"]), "not heads"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_without_peft_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'mmonepeace\[lora\]'"):
        build()
    build(lora=None)


def test_the_second_stage_of_pretraining_refuses_it():
    backbone = dict(arch=TINY, modalities=MODALITIES | {"audio": {}}, lora=dict(rank=2))
    decoder = dict(embed_dim=32, depth=1, num_heads=2, ffn_dim=48)
    with pytest.raises(ValueError, match="chooses itself what is trained"):
        OnePeacePretrainer(backbone, decoder=decoder, stage="al")


def test_parameters_have_the_rate_of_their_block_and_decay_as_matrices():
    model = torch.nn.ModuleDict({"backbone": build(trained=["norm"])})
    constructor = optim.LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05)), dict(decay_rate=0.5)
    )
    groups = constructor(model).optimizer.param_groups
    found = {name: group for group in groups for name in group["param_names"]}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    for name, group in found.items():
        if ".lora_" in name:
            block = int(name.split(".")[2])
            assert group["layer_id"] == block + 1
            assert group["lr"] == 0.5 ** (4 - block - 1)
            assert group["weight_decay"] == 0.05
        elif ".norm" in name:
            assert group["weight_decay"] == 0


def run_file(model, path):
    """A checkpoint as a run writes it, of a model with the backbone and a head."""
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    state["head.classifier.0.weight"] = torch.randn(3, 32)
    torch.save({"state_dict": state, "meta": model.metadata()}, path)
    return path


def test_an_adapter_goes_through_files_of_peft(tmp_path):
    import peft

    model = randomise(build(trained=["norm", "rpb"])).eval()
    path, folder = run_file(model, tmp_path / "iter_1.pth"), tmp_path / "adapter"
    checkpoint.write_lora(path, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 6.0, "LORA")
    base = build(lora=None).eval()
    weights = {checkpoint.base_name(k): v for k, v in model.state_dict().items()}
    base.load_state_dict({k: v for k, v in weights.items() if not checkpoint.has_lora([k])})
    image = torch.randn(1, 3, 64, 64)
    (expected,) = model(image)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
    assert distance(theirs(image)[0], expected) < 1e-5
    # What peft writes, from its own model or ours, is read too.
    theirs.save_pretrained(tmp_path / "theirs")
    for source in (folder, tmp_path / "theirs"):
        ours = copy.deepcopy(base)
        load_lora(ours, source, "first")
        assert distance(ours(image)[0], expected) < 1e-5
    # Onto the file of a base: heads and other weights too.
    checkpoint.write(
        tmp_path / "base.safetensors", checkpoint.to_own(base.state_dict(), base.metadata())
    )
    both = checkpoint.read_own(tmp_path / "base.safetensors", folder).weights
    assert "head.classifier.0.weight" in both
    alone = checkpoint.read_own(path).weights
    assert both.keys() == alone.keys()
    for name in both:
        torch.testing.assert_close(both[name], alone[name])
    merged = build(lora=None).eval()
    merged.load_state_dict({k: v for k, v in alone.items() if not k.startswith("head.")})
    assert distance(merged(image)[0], expected) < 1e-5
    assert sum(x.stat().st_size for x in folder.iterdir()) < path.stat().st_size


def test_adapters_are_switched_by_name(tmp_path):
    image = torch.randn(1, 3, 64, 64)
    base = randomise(build(lora=None)).eval()
    expected = {}
    for name, targets in (("first", ("q", "down")), ("second", ("v",))):
        model = build(lora=ALL | dict(targets=targets)).eval()
        model.load_state_dict(
            {
                k: base.state_dict().get(checkpoint.base_name(k), v)
                for k, v in model.state_dict().items()
            }
        )
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if ".lora_" in key:
                    parameter.uniform_(-0.5, 0.5)
        checkpoint.write_lora(run_file(model, tmp_path / "iter_1.pth"), tmp_path / name)
        (expected[name],) = model(image)
    (expected[None],) = base(image)
    for name in ("first", "second"):
        load_lora(base, tmp_path / name, name)
        assert distance(base(image)[0], expected[name]) < 1e-5
    assert names(base) == {"first", "second"}
    for name in ("first", None, "second", "first"):
        use_lora(base, name)
        assert distance(base(image)[0], expected[name]) < 1e-5
    with pytest.raises(ValueError, match="no LoRA 'third'"):
        use_lora(base, "third")
    with pytest.raises(ValueError, match="taken"):
        load_lora(base, tmp_path / "first", "first")


def test_an_adapter_of_another_base_or_kind_is_refused(tmp_path):
    model = randomise(build())
    checkpoint.write_lora(run_file(model, tmp_path / "iter_1.pth"), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_lora(OnePeace(TINY | {"embed_dim": 16}), tmp_path / "adapter", "x")
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_lora(OnePeace(TINY | {"depth": 2}), tmp_path / "adapter", "x")
    base = OnePeace(TINY | {"depth": 2}, img_size=64)
    checkpoint.write(
        tmp_path / "base.safetensors", checkpoint.to_own(base.state_dict(), base.metadata())
    )
    with pytest.raises(CheckpointError, match="Use the base that it was trained on"):
        checkpoint.read_own(tmp_path / "base.safetensors", tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="has no LoRA"):
        checkpoint.write_lora(tmp_path / "base.safetensors", tmp_path / "other")
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="use_dora"):
        checkpoint.read_lora(tmp_path / "adapter")
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "no_facts.pth")
    with pytest.raises(CheckpointError, match="do not say which alpha"):
        checkpoint.read_own(tmp_path / "no_facts.pth")


def test_a_merged_or_plain_file_resets_the_adapter(tmp_path):
    """Loading is a function of the file, whatever the model was before."""
    plain = randomise(build(lora=None)).eval()
    torch.save({"state_dict": plain.state_dict(), "meta": {}}, tmp_path / "plain.pth")
    model = randomise(build()).eval()
    checkpoint.load_model(model, tmp_path / "plain.pth")
    image = torch.randn(1, 3, 64, 64)
    assert distance(model(image)[0], plain(image)[0]) < 1e-5
    torch.save(
        {"state_dict": randomise(model).state_dict(), "meta": model.metadata()},
        tmp_path / "run.pth",
    )
    checkpoint.load_model(plain, tmp_path / "run.pth")
    assert distance(plain(image)[0], model(image)[0]) < 1e-5
    again = build().eval()
    checkpoint.load_model(again, tmp_path / "run.pth")
    assert distance(again(image)[0], model(image)[0]) < 1e-5


def test_a_merge_in_bfloat16_is_rounded_and_cannot_be_undone():
    base = torch.randn(64, 64).bfloat16()
    a, b = torch.randn(4, 64) * 0.1, torch.randn(64, 4) * 0.1
    stored = checkpoint.lora.StoredLora(8.0, {"layers.0.attn.q_proj": (a, b)})
    weights = {"layers.0.attn.q_proj.weight": base}
    stored.merge_into(weights)
    merged = weights["layers.0.attn.q_proj.weight"]
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, (base.float() + 2 * b @ a).bfloat16())
    back = (merged.float() - 2 * b @ a).bfloat16()
    assert not torch.equal(back, base)


def test_compiled_blocks_have_it_too(monkeypatch):
    torch._dynamo.reset()
    compiled = partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    plain = randomise(build()).train()
    ours = build(compiled=True).train()
    ours.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 64, 64)
    (got,), (expected,) = ours(image), plain(image)
    assert distance(got, expected) < 1e-5
    got.square().mean().backward()
    assert all(p.grad.any() for name, p in ours.named_parameters() if ".lora_" in name)
    torch._dynamo.reset()
