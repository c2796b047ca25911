import copy
import sys

import pytest
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch.nn.functional import scaled_dot_product_attention

from mmonepeace import checkpoint
from mmonepeace.models import OnePeace
from mmonepeace.spec import ARCHS
from tests.conftest import ROOT, TINY, randomise

PACKAGE = ROOT / "mmonepeace"


def save(model, path, **meta):
    weights = copy.deepcopy(model.state_dict())
    checkpoint.write(path, checkpoint.Conversion(weights, {"format": "mmonepeace", **meta}))
    return str(path)


def test_parameter_counts_are_those_of_the_released_model():
    with torch.device("meta"):
        pretrained = OnePeace("giant")
        segmentation = OnePeace("giant", img_size=896, rpb="per_block")
    assert sum(p.numel() for p in pretrained.parameters()) == 1_514_569_056
    assert sum(p.numel() for p in segmentation.parameters()) == 1_530_800_640


@pytest.mark.parametrize("name", ARCHS)
def test_every_size_builds_and_has_the_parameters_that_the_docs_say(name):
    with torch.device("meta"):
        model = OnePeace(name)
    assert len(model.layers) == ARCHS[name].depth
    count = sum(p.numel() for p in model.parameters())
    row = next(r for r in (ROOT / "docs/recipes.md").read_text().splitlines() if f"| {name} |" in r)
    assert f"{count:,}" in row


@pytest.mark.parametrize("rpb", ["shared", "per_block"])
@pytest.mark.parametrize("size", [(64, 64), (97, 513), (16, 16), (1, 1), (640, 480), (33, 15)])
def test_any_size_runs_forward_and_backward(size, rpb):
    model = OnePeace(TINY, img_size=64, rpb=rpb, out_indices=(0, 2))
    maps = model(torch.randn(2, 3, *size))
    grid = (-(-size[0] // 16), -(-size[1] // 16))
    assert [m.shape for m in maps] == [(2, 32, *grid)] * 2
    sum(m.square().sum() for m in maps).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


def test_the_own_grid_is_never_resampled(monkeypatch):
    model = OnePeace(TINY, img_size=64)
    monkeypatch.setattr("torch.nn.functional.interpolate", None)
    monkeypatch.setattr("mmonepeace.layers.resampling._spline_matrix", None)
    model(torch.randn(1, 3, 64, 64))


def test_padding_the_image_by_hand_changes_nothing():
    model = randomise(OnePeace(TINY, img_size=64)).eval()
    image = torch.randn(1, 3, 50, 90)
    padded = torch.nn.functional.pad(image, (0, 6, 0, 14))
    assert torch.equal(model(image)[0], model(padded)[0])


def test_transposing_image_and_tables_transposes_the_map():
    """Rows and columns are treated alike, also when only one of them is resampled."""
    model = randomise(OnePeace(TINY | {"stem": "conv"}, img_size=64)).double().eval()
    image = torch.randn(1, 3, 64, 112, dtype=torch.float64)
    other = copy.deepcopy(model)
    with torch.no_grad():
        adapter = other.adapters["image"]
        adapter.stem.weight.copy_(adapter.stem.weight.transpose(2, 3).clone())
        positions = adapter.pos_embed[1:].view(4, 4, -1).transpose(0, 1).flatten(0, 1)
        adapter.pos_embed[1:] = positions.clone()
        table = adapter.rpb.tables[0]
        table[:-3] = table[:-3].view(7, 7, -1).transpose(0, 1).flatten(0, 1).clone()
    got = other(image.transpose(2, 3))[0].transpose(2, 3)
    torch.testing.assert_close(got, model(image)[0])


def test_loading_a_shared_table_into_a_decoupled_model_copies_and_resamples(tmp_path):
    shared = randomise(OnePeace(TINY, img_size=64)).eval()
    path = save(shared, tmp_path / "shared.safetensors")
    decoupled = OnePeace(TINY, img_size=96, rpb="per_block").eval()
    report = decoupled.load_checkpoint(path)
    assert not report.missing
    assert report.changed.keys() == {
        "adapters.image.pos_embed",
        *(f"adapters.image.rpb.tables.{i}" for i in range(3)),
    }
    image = torch.randn(1, 3, 96, 96)
    # Resampling at load time and at run time are the same function.
    torch.testing.assert_close(decoupled(image)[0], shared(image)[0], rtol=1e-4, atol=1e-5)
    assert "copied to each block, resampled 52 -> 124 rows" in str(report)


@pytest.mark.parametrize("loader", ["torch", "mmengine"])
def test_plain_load_state_dict_resamples_too(loader):
    from mmengine.runner.checkpoint import load_state_dict

    shared = randomise(OnePeace(TINY, img_size=64)).eval()
    segmentor = torch.nn.ModuleDict({"backbone": OnePeace(TINY, img_size=96, rpb="per_block")})
    weights = {f"backbone.{key}": value for key, value in shared.state_dict().items()}
    if loader == "torch":
        segmentor.eval().load_state_dict(weights, strict=True)
    else:
        load_state_dict(segmentor.eval(), weights, strict=True)
    image = torch.randn(1, 3, 96, 96)
    torch.testing.assert_close(
        segmentor["backbone"](image)[0], shared(image)[0], rtol=1e-4, atol=1e-5
    )


def test_a_missing_parameter_is_an_error_naming_both_sides(tmp_path):
    model = OnePeace(TINY, img_size=64)
    weights = dict(model.state_dict())
    del weights["layers.1.norm1.weight"]
    weights["layers.0.surplus"] = torch.zeros(1)
    path = tmp_path / "weights.safetensors"
    checkpoint.write(path, checkpoint.Conversion(weights, {"format": "mmonepeace"}))
    with pytest.raises(checkpoint.CheckpointError) as error:
        model.load_checkpoint(str(path))
    assert "layers.*.norm1.weight" in str(error.value)
    assert "layers.*.surplus" in str(error.value)
    report = model.load_checkpoint(str(path), allow_missing=["layers.1.norm1"])
    assert report.missing == ["layers.1.norm1.weight"]
    assert report.unused == ["layers.0.surplus"]


def test_weights_of_another_width_are_refused(tmp_path):
    path = save(OnePeace(TINY), tmp_path / "weights.safetensors")
    other = OnePeace(TINY | {"embed_dim": 16})
    with pytest.raises(checkpoint.CheckpointError, match="arch"):
        other.load_checkpoint(path)


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"resnet\.pth: .*another model"):
        OnePeace(TINY).load_checkpoint(str(path))


def test_decoupled_weights_do_not_fit_a_shared_table(tmp_path):
    path = save(OnePeace(TINY, rpb="per_block"), tmp_path / "weights.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="per_block"):
        OnePeace(TINY).load_checkpoint(path)


def test_init_cfg_loads_once_and_only_pretrained(tmp_path):
    source = randomise(OnePeace(TINY))
    path = save(source, tmp_path / "weights.safetensors")
    model = OnePeace(TINY, init_cfg={"type": "Pretrained", "checkpoint": path})
    model.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    with pytest.raises(ValueError, match="Pretrained"):
        OnePeace(TINY, init_cfg={"type": "Kaiming"}).init_weights()


def test_frozen_stages_get_no_gradient_and_stay_in_eval():
    model = OnePeace(TINY, rpb="per_block", frozen_stages=2, drop_path_rate=0.5).train()
    model(torch.randn(2, 3, 32, 32))[0].sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if name.startswith("layers.2.") or name == "adapters.image.rpb.tables.2"
    }
    assert [layer.training for layer in model.layers] == [False, False, True]


@pytest.mark.parametrize("rpb", ["shared", "per_block"])
def test_layer_depth(rpb):
    depth = OnePeace(TINY, rpb=rpb).get_layer_depth
    assert depth("backbone.adapters.image.pos_embed", "backbone.") == (0, 5)
    assert depth("adapters.image.rpb.tables.0") == (int(rpb == "per_block"), 5)
    assert depth("layers.2.attn.q_proj.weight") == (3, 5)
    assert depth("norms.image.weight") == (4, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "huge"}, "giant"),
        ({"arch": {"embed_dim": 32, "depht": 1}}, "depht"),
        ({"arch": {"embed_dim": 30, "depth": 1, "num_heads": 4}}, "multiple"),
        ({"modalities": ("image", "smell")}, "smell"),
        ({"rpb": "per_layer"}, "per_block"),
        ({"img_size": 100}, "100"),
        ({"out_indices": (1, 7)}, "7"),
        ({"out_indices": (2, 1)}, "ascending"),
        ({"frozen_stages": 9}, "9"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OnePeace(**({"arch": TINY} | arguments))


def test_build_from_any_registry_by_either_name():
    import mmpretrain.registry
    import mmseg.registry

    registries = [MMENGINE_MODELS, mmseg.registry.MODELS, mmpretrain.registry.MODELS]
    for registry in registries:
        for name in ("OnePeace", "mmonepeace.OnePeace"):
            assert isinstance(registry.build({"type": name, "arch": TINY}), OnePeace)


@pytest.mark.ops
def test_build_from_mmdet():
    import mmdet.registry

    for name in ("OnePeace", "mmonepeace.OnePeace"):
        assert isinstance(mmdet.registry.MODELS.build({"type": name, "arch": TINY}), OnePeace)


def test_bfloat16_stays_close_to_float32():
    model = randomise(OnePeace(TINY, img_size=64)).eval()
    image = torch.randn(1, 3, 80, 64)
    exact = model(image)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(image)[0]
    half = copy.deepcopy(model).bfloat16()(image.bfloat16())[0]
    for other in (mixed.float(), half.float()):
        assert (other - exact).norm() / exact.norm() < 0.06


@pytest.mark.gpu
def test_gpu_equals_cpu():
    model = randomise(OnePeace(TINY, img_size=64)).eval()
    image = torch.randn(2, 3, 80, 112)
    torch.testing.assert_close(
        model.cuda()(image.cuda())[0].cpu(), model.cpu()(image)[0], rtol=1e-3, atol=1e-3
    )


def trace(run):
    """(file, function) of each call into the package, and their number at PyTorch's attention."""
    calls, at_kernel = [], []

    def profile(frame, event, arg):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)):
            calls.append((file, frame.f_code.co_qualname))
        if event == "c_call" and arg is scaled_dot_product_attention:
            at_kernel.append(len(calls))

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls, at_kernel[0]


def test_a_reader_passes_few_files_and_functions():
    """What the house promises: image to maps, and block to kernel, at depth 1."""
    model = OnePeace(dict(embed_dim=32, depth=1, num_heads=2, ffn_dim=48), img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    model(images)
    calls, at_kernel = trace(lambda: model(images))
    assert len({file for file, _ in calls}) <= 8
    assert len(set(calls)) <= 32
    names = [name for _, name in calls]
    block = names.index("EncoderLayer.forward")
    assert len(set(names[block:at_kernel])) <= 11
