"""The encoder in timm: entry points, maps, classifiers, weights, and what users of timm call."""

import copy

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import mmonepeace.timm
from mmonepeace import checkpoint
from mmonepeace.models import OnePeace, OnePeaceViTAdapter
from mmonepeace.spec import ARCHS, CLIP_MEAN, CLIP_STD
from tests.checkpoint import official
from tests.conftest import randomise

TINY = "onepeace_tiny_patch16"
PYRAMID = "onepeace_tiny_vit_adapter"
SMALL = dict(dim=192, ffn_dim=768, depth=12, heads=3, side=4)  # a file of the size of TINY


@pytest.fixture(autouse=True)
def _fast_initial_weights(monkeypatch):
    """Truncated normals take most of the time; torch's own initial weights serve as well here."""
    monkeypatch.setattr("mmonepeace.models.onepeace.reset_weight", lambda *_: None)


def create(name=TINY, **options):
    return randomise(timm.create_model(name, img_size=64, **options)).eval()


def backbone_of(model):
    return getattr(model, "model", model).backbone


def own_backbone(model, cls=OnePeace, **options):
    """The weights of a timm model in a backbone of ours."""
    backbone = cls("tiny", img_size=64, **options).eval()
    weights = backbone_of(model).state_dict()
    backbone.load_state_dict({k: weights[k] for k in backbone.state_dict()})
    return backbone


@pytest.mark.parametrize("kind", ["patch16", "vit_adapter"])
@pytest.mark.parametrize("size", ARCHS)
def test_every_size_is_registered_and_builds(size, kind):
    name = f"onepeace_{size}_{kind}"
    assert timm.is_model(name)
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True)
    reductions = {"patch16": [16] * 4, "vit_adapter": [4, 8, 16, 32]}[kind]
    assert model.feature_info.reduction() == reductions
    assert model.feature_info.channels() == [ARCHS[size].embed_dim] * 4
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("size", [(64, 64), (50, 97)])
@pytest.mark.parametrize("indices", [(1, 4, 10), (-1,), 2])
def test_maps_are_a_list_and_equal_those_of_the_backbone(indices, size):
    model = create(features_only=True, out_indices=indices)
    images = torch.randn(2, 3, *size)
    maps = model(images)
    assert isinstance(maps, list)
    blocks = (10, 11) if indices == 2 else indices
    weights = {f"backbone.{k}": v for k, v in backbone_of(model).state_dict().items()}
    whole = create(num_classes=0)
    whole.load_state_dict(weights, strict=False)
    expected = own_backbone(whole, out_indices=blocks)(images)
    torch.testing.assert_close(maps, list(expected), rtol=0, atol=0)
    for array, channels, reduction in zip(
        maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert array.shape == (2, channels, *(-(-side // reduction) for side in size))
    assert len(maps) == len(blocks)


def test_blocks_after_the_last_map_are_removed_with_their_tables():
    model = create(features_only=True, out_indices=(1, 4), rpb="per_block")
    backbone = backbone_of(model)
    assert len(backbone.layers) == len(backbone.adapters["image"].rpb.tables) == 5
    sum(x.square().mean() for x in model(torch.randn(1, 3, 32, 48))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_default_maps_end_each_quarter_of_the_blocks():
    model = create(features_only=True)
    assert model.feature_info.out_indices == (2, 5, 8, 11)


def test_a_pyramid_equals_the_vit_adapter():
    model = create(PYRAMID, features_only=True, out_indices=(0, 1, 3))
    images = torch.randn(2, 3, 40, 70)
    expected = own_backbone(model, OnePeaceViTAdapter, norm_cfg=dict(type="BN"))(images)
    torch.testing.assert_close(model(images), [expected[i] for i in (0, 1, 3)], rtol=0, atol=0)


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_pyramid_is_what_encoders_of_segmentation_models_pytorch_expect(depth, channels):
    """Its universal encoder: strides 4 to 32 by default, depth - 1 maps, channels of any number."""
    with torch.device("meta"):
        probe = timm.create_model(PYRAMID, features_only=True)
    assert probe.feature_info.reduction() == [2 ** (i + 2) for i in range(4)]
    assert getattr(probe, "output_fmt", None) != "NHWC"
    model = timm.create_model(
        PYRAMID, features_only=True, in_chans=channels, pretrained=False,
        out_indices=tuple(range(depth - 1)),
    ).eval()  # fmt: skip
    maps = model(torch.randn(1, channels, 64, 32))
    assert [x.shape[1] for x in maps] == model.feature_info.channels()
    assert [64 // x.shape[2] for x in maps] == [2 ** (i + 2) for i in range(depth - 1)]


def test_blocks_are_what_dpt_of_segmentation_models_pytorch_expects():
    model = create(in_chans=3)
    assert [model.feature_info[i]["reduction"] for i in (2, 5)] == [16, 16]
    out = model.forward_intermediates(
        torch.randn(1, 3, 32, 48),
        indices=[2, 5],
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    assert [(x.shape, prefix.shape) for x, prefix in out] == [((1, 192, 2, 3), (1, 1, 192))] * 2
    assert model.num_prefix_tokens == 1
    assert not model.pretrained_cfg["fixed_input_size"]


@pytest.mark.parametrize("norm", [False, True])
def test_intermediate_outputs_agree_with_the_final_tokens(norm):
    model, images = create(), torch.randn(2, 3, 64, 64)
    final, tokens = model.forward_intermediates(images, [3, 11], norm=norm, output_fmt="NLC")
    features = model.forward_features(images)
    assert torch.equal(final, features)
    last = model.backbone.norms["image"](features) if norm else features
    assert torch.equal(tokens[-1], last[:, 1:])
    stopped, _ = model.forward_intermediates(images, [3], stop_early=True)
    assert torch.equal(
        stopped[:, 1:], model.forward_intermediates(images, [3], output_fmt="NLC")[1][0]
    )


def test_a_classifier_equals_pooling_norm_and_linear_of_the_backbone():
    model, images = create(num_classes=5), torch.randn(2, 3, 48, 64)
    pooled = own_backbone(model, out_type="avg_featmap", final_norm=True)(images)[0]
    assert torch.equal(model.forward_head(model.forward_features(images), pre_logits=True), pooled)
    torch.testing.assert_close(model(images), model.get_classifier()(pooled))


@pytest.mark.parametrize(("pool", "shape"), [("avg", (2, 4)), ("token", (2, 4)), ("", (2, 17, 4))])
def test_the_classifier_can_be_replaced(pool, shape):
    model, images = create(), torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 1000)
    model.reset_classifier(4, pool)
    assert model(images).shape == shape
    assert model.num_classes == model.get_classifier().out_features == 4
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(model.forward_features(images), True))


def test_all_parameters_of_a_classifier_get_a_gradient_with_checkpointing_too():
    model, images = create(num_classes=3).train(), torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        assert [name for name, grad in gradients[-1].items() if not grad.any()] == []
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("rpb", ["shared", "per_block"])
@pytest.mark.parametrize("name", [TINY, PYRAMID])
def test_layer_decay_groups_are_the_depths_of_the_backbone(name, rpb):
    model = getattr(m := create(name, rpb=rpb, features_only=name == PYRAMID), "model", m)
    groups = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    names = {id(p): n for n, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found.keys() == set(names.values())
    for parameter, (scale, decay) in found.items():
        depth, number = (13, 14)
        if parameter.startswith("backbone."):
            depth, number = model.backbone.get_layer_depth(parameter, "backbone.")
        assert scale == 0.5 ** (number - 1 - depth), parameter
        is_table = any(s in parameter for s in ("rpb", "pos_embed", "cls_token"))
        is_vector = model.get_parameter(parameter).ndim <= 1
        assert (decay == 0) == (is_table or is_vector), parameter


@pytest.mark.parametrize("features", [False, True])
def test_a_state_dict_comes_back(features, tmp_path):
    model = create(features_only=features)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = timm.create_model(
        TINY, img_size=64, features_only=features, checkpoint_path=tmp_path / "model.pth"
    )
    official.assert_same(model.state_dict(), other.state_dict())


def official_file(tmp_path, suffix=".pth", **options):
    """The released full model, tiny, with the buffers of a real file."""
    path = tmp_path / f"onepeace{suffix}"
    torch.save({"model": official.full(**SMALL, **options)}, path)
    return path


@pytest.mark.parametrize("how", ["file", "checkpoint_path", "state_dict"])
@pytest.mark.parametrize("features", [False, True])
def test_official_weights_go_in(how, features, tmp_path):
    path = official_file(tmp_path)
    options = {
        "file": dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path))),
        "checkpoint_path": dict(checkpoint_path=path),
        "state_dict": dict(
            pretrained=True, pretrained_cfg_overlay=dict(state_dict=torch.load(path)["model"])
        ),
    }[how]
    model = timm.create_model(TINY, img_size=64, features_only=features, **options).eval()
    backbone = OnePeace("tiny", img_size=64, out_indices=(2, 5, 8, 11)).eval()
    backbone.load_checkpoint(str(path))
    images = torch.randn(1, 3, 64, 80)
    maps = model(images) if features else model.forward_intermediates(
        images, [2, 5, 8, 11], intermediates_only=True
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(maps, backbone(images), strict=True))


def test_a_raw_pickle_of_the_vision_branch_is_read(tmp_path):
    backbone = randomise(OnePeace("tiny", img_size=64))
    path = tmp_path / "one-peace-vision.pkl"
    checkpoint.write(path, checkpoint.to_official_vision(checkpoint.to_own(backbone.state_dict())))
    overlay = dict(file=str(path))
    model = timm.create_model(TINY, img_size=64, pretrained=True, pretrained_cfg_overlay=overlay)
    for name, value in backbone.state_dict().items():
        assert torch.equal(model.state_dict()[f"backbone.{name}"], value), name


def test_weights_of_another_size_channels_and_classes_are_adapted(tmp_path):
    source = create(num_classes=7)
    path = tmp_path / "classifier.safetensors"
    weights = copy.deepcopy(source.state_dict())
    checkpoint.write(path, checkpoint.Conversion(weights, {"format": "mmonepeace"}))
    model = timm.create_model(
        TINY, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), img_size=96, in_chans=1,
        num_classes=3, rpb="per_block",
    )  # fmt: skip
    conv = "backbone.adapters.image.stem.0.weight"
    torch.testing.assert_close(model.state_dict()[conv], weights[conv].sum(1, keepdim=True))
    assert model(torch.randn(1, 1, 96, 96)).shape == (1, 3)
    assert len(model.backbone.adapters["image"].pos_embed) == 37
    same = timm.create_model(
        TINY,
        pretrained=True,
        pretrained_cfg_overlay=dict(file=str(path)),
        img_size=64,
        num_classes=7,
    )
    official.assert_same(source.state_dict(), same.state_dict())


@pytest.mark.parametrize("name", [TINY, PYRAMID])
def test_a_fine_tuned_file_brings_the_tables_of_its_blocks(name, tmp_path):
    source = randomise(
        OnePeace("tiny", ("image", "text"), img_size=64, rpb="per_block", final_norm=True)
    )
    path = tmp_path / "fine_tuned.safetensors"
    converted = checkpoint.to_own(source.state_dict(), {"format": "mmonepeace"})
    checkpoint.write(path, converted)
    options = dict(img_size=64, features_only=name == PYRAMID)
    overlay = dict(file=str(path))
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    encoder = getattr(model, "model", model)
    state = encoder.state_dict()
    tables = [key for key in converted.weights if ".image.rpb.tables." in key]
    assert len(tables) == len(encoder.backbone.adapters["image"].rpb.tables) == 12
    for key in tables:
        assert torch.equal(state[f"backbone.{key}"], converted.weights[key])
    assert "(?!" in encoder.group_matcher()["stem"]  # the tables have the depth of their blocks
    same = timm.create_model(name, rpb="per_block", **options).eval()
    getattr(same, "model", same).load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    for one, two in zip(model.eval()(images), same(images), strict=True):
        assert torch.equal(one, two)


def test_other_channels_are_read_off_a_file():
    model = create(in_chans=5)
    own = checkpoint.to_own(model.state_dict())
    assert checkpoint.infer_config(own.weights)["modalities"] == {"image": {"in_channels": 5}}


@pytest.mark.parametrize("name", [TINY, PYRAMID])
def test_pretrained_without_a_file_says_where_weights_are(name):
    with pytest.raises(ValueError, match=r"without a file.*ONE-PEACE lists.*file=PATH"):
        timm.create_model(name, pretrained=True, features_only=True)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"features_only=True.*onepeace_tiny_patch16"):
        timm.create_model(PYRAMID)
    with pytest.raises(TypeError, match="drop_pathrate"):
        timm.create_model(TINY, drop_pathrate=0.1)
    with pytest.raises(ValueError, match=r"\(64, 32\), expected one side"):
        timm.create_model(TINY, img_size=(64, 32))
    with pytest.raises(ValueError, match=r"global_pool is 'max'"):
        timm.create_model(TINY, global_pool="max")
    with pytest.raises(checkpoint.CheckpointError, match="another model"):
        timm.create_model(TINY).load_state_dict({"conv1.weight": torch.zeros(1)})


def test_drop_rates_reach_the_model():
    model = timm.create_model(TINY, drop_rate=0.25, drop_path_rate=0.5)
    assert model.head.drop.p == 0.25
    assert model.backbone.layers[-1].drop_path.rate == 0.5


def test_images_are_prepared_as_the_encoder_needs_them():
    config = timm.data.resolve_model_data_config(timm.create_model(TINY))
    assert (config["mean"], config["std"]) == (CLIP_MEAN, CLIP_STD)
    assert config["input_size"] == (3, 256, 256)


def test_names_can_be_imported():
    for name in mmonepeace.timm.__all__:
        assert hasattr(mmonepeace.timm, name)
    assert mmonepeace.timm.onepeace_tiny_patch16(num_classes=2).num_classes == 2
