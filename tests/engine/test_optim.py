import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmonepeace.engine import optim
from mmonepeace.engine.optim import LayerDecayRule, find_depth, numbered_depth
from mmonepeace.models import OnePeace, OnePeacePretrainer
from tests.conftest import TINY


class Segmentor(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = OnePeace(TINY, **kwargs)
        self.decode_head = nn.ModuleDict(
            {"conv": nn.Conv2d(32, 4, 3), "query_embed": nn.Embedding(5, 4)}
        )


def build(model, **paramwise):
    cfg = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.05},
        "constructor": "mmonepeace.LayerDecayOptimWrapperConstructor",
        "paramwise_cfg": paramwise,
    }
    return build_optim_wrapper(model, cfg)


def settings(wrapper):
    """name -> (lr, weight decay)."""
    return {
        name: (group["lr"], group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for name in group["param_names"]
    }


def test_every_trained_parameter_is_in_one_group_with_its_depth():
    model = Segmentor(rpb="per_block", frozen_stages=0)
    wrapper = build(model, decay_rate=0.5)
    got = settings(wrapper)
    assert set(got) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(g["params"]) for g in wrapper.optimizer.param_groups) == len(got)
    assert got["backbone.layers.0.attn.q_proj.weight"] == (0.5**3, 0.05)
    assert got["backbone.layers.2.attn.q_proj.bias"] == (0.5, 0.0)
    assert got["backbone.adapters.image.rpb.tables.1"] == (0.5**2, 0.0)
    assert got["decode_head.conv.weight"] == (1.0, 0.05)


def test_positions_cls_and_vectors_do_not_decay():
    got = settings(build(Segmentor(), decay_rate=0.5))
    for name in ("cls_token", "pos_embed", "rpb.tables.0", "stem.1.weight"):
        assert got[f"backbone.adapters.image.{name}"] == (0.5**4, 0.0)
    assert got["backbone.adapters.image.stem.0.weight"] == (0.5**4, 0.05)


def test_named_head_parameters_can_have_depth_zero_or_no_decay():
    got = settings(
        build(
            Segmentor(),
            decay_rate=0.5,
            depth_zero=["decode_head.query"],
            no_decay="decode_head.conv",
        )
    )
    assert got["decode_head.query_embed.weight"] == (0.5**4, 0.05)
    assert got["decode_head.conv.weight"] == (1.0, 0.0)


def test_the_longest_prefix_multiplies_a_rate():
    factors = {"backbone.": 0.1, "backbone.layers.1.": 3.0}
    got = settings(build(Segmentor(), decay_rate=1.0, factors=factors))
    assert got["backbone.layers.0.attn.q_proj.weight"] == (0.1, 0.05)
    assert got["backbone.layers.1.attn.q_proj.weight"] == (3.0, 0.05)
    assert got["decode_head.conv.weight"] == (1.0, 0.05)


def test_official_preset_keeps_the_official_faults():
    got = settings(build(Segmentor(), decay_rate=0.5, preset="official-segmentation"))
    assert got["backbone.adapters.image.pos_embed"] == (0.5**4, 0.05)
    assert got["decode_head.query_embed.weight"] == (0.5**4, 0.05)


def test_the_group_table_is_printed(monkeypatch):
    printed = []
    monkeypatch.setattr("mmonepeace.engine.optim.print_log", lambda text, **_: printed.append(text))
    build(Segmentor(), decay_rate=0.5)
    assert "backbone.adapters.image.stem.0.weight" in printed[0]
    assert "0.0625" in printed[0]


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        ({}, "decay_rate"),
        ({"decay_rate": 0.9, "layer_decay": 1}, "layer_decay"),
        ({"decay_rate": 0.9, "preset": "offical"}, "official-segmentation"),
        ({"decay_rate": 1.2}, "1.2"),
    ],
)
def test_wrong_options_are_refused(paramwise, message):
    with pytest.raises(ValueError, match=message):
        build(Segmentor(), **paramwise)


def test_a_foreign_backbone_is_decayed_by_its_numbered_blocks():
    names = ["backbone.patch_embed.w", "backbone.layers.0.w", "backbone.layers.1.w", "head.w"]
    depth = numbered_depth(names, "backbone.")
    assert [depth(name)[0] for name in names] == [0, 1, 2, 3]
    nested = [
        "patch_embed.w",
        "stages.0.blocks.0.w",
        "stages.0.blocks.1.w",
        "stages.1.blocks.0.w",
        "norm.w",
    ]
    depth = numbered_depth(nested, "")
    assert [depth(name)[0] for name in nested] == [0, 1, 2, 3, 4]


def test_depths_of_mmseg_and_mmpretrain_backbones():
    from mmpretrain.models import VisionTransformer as PretrainViT
    from mmseg.models import VisionTransformer as SegViT

    for cls, arguments in (
        (PretrainViT, {"arch": "deit-t", "img_size": 32}),
        (SegViT, {"img_size": 32, "embed_dims": 24, "num_layers": 12, "num_heads": 3}),
    ):
        holder = nn.ModuleDict({"backbone": cls(**arguments), "head": nn.Linear(2, 2)})
        depth = find_depth(holder)
        assert depth("backbone.layers.0.attn.qkv.weight") == (1, 14)
        assert depth("backbone.layers.11.ln1.weight") == (12, 14)
        assert depth("backbone.pos_embed")[0] == 0
        assert depth("head.weight")[0] == 13


def test_detection_preset_spares_norms_and_positions_only():
    rule = LayerDecayRule(0.9, 0.1, "official-detection")
    depth = OnePeace(TINY).get_layer_depth
    assert rule.group("layers.0.gamma_1", (32,), depth).weight_decay == 0.1
    assert rule.group("layers.0.norm1.weight", (32,), depth, in_norm=True).weight_decay == 0.0
    assert rule.group("adapters.image.pos_embed", (17, 32), depth).weight_decay == 0.0


def test_bfloat16_wrapper_trains_in_autocast_on_the_cpu():
    model = nn.Linear(4, 2)
    cfg = {"type": "mmonepeace.BFloat16OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    wrapper = build_optim_wrapper(model, cfg)
    with wrapper.optim_context(model):
        out = model(torch.randn(3, 4))
    assert out.dtype == torch.bfloat16
    before = model.weight.clone()
    wrapper.update_params(out.float().square().sum())
    assert not torch.equal(before, model.weight)
    assert model.weight.dtype == torch.float32


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_says_whether_the_cpu_multiplies_it(has, monkeypatch):
    said = []
    monkeypatch.setattr(optim, "print_log", lambda text, **_: said.append(text))
    features = {"avx2": True, "avx512_bf16": has, "cpu_name": "a CPU"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    optim._say_how_bfloat16_is_multiplied.cache_clear()
    model = nn.Linear(4, 2)
    cfg = {"type": "mmonepeace.BFloat16OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.1}}
    wrapper = build_optim_wrapper(model, cfg)
    for _ in range(2):
        with wrapper.optim_context(model):
            pass
    (text,) = said
    assert ("(avx512_bf16)" in text) is has
    assert ("leave --dtype bf16 out" in text) is not has


def test_pretraining_decays_all_but_the_official_exceptions():
    model = OnePeacePretrainer(
        {
            "arch": TINY,
            "img_size": 32,
            "final_norm": True,
            "modalities": {
                "text": {"vocab_size": 300},
                "image": {},
                "audio": {"feature_dim": 8, "pos_groups": 4},
            },
        },
        decoder={"embed_dim": 32, "depth": 1, "num_heads": 2},
    )
    got = settings(build(model, decay_rate=1.0, preset="official-multimodal"))
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    assert {lr for lr, _ in got.values()} == {1.0}
    assert not any(decay for name, (_, decay) in got.items() if shapes[name] < 2)
    # Official, by a missing comma: the decoder's positions of images decay.
    assert {name for name, (_, decay) in got.items() if not decay and shapes[name] > 1} == {
        "backbone.adapters.text.cls_token",
        "backbone.adapters.text.pos_embed",
        "backbone.adapters.image.cls_token",
        "backbone.adapters.image.pos_embed",
        "backbone.adapters.audio.cls_token",
        "decoder.adapters.text.pos_embed",
    }


def test_queries_of_the_backbone_do_not_decay():
    rule = LayerDecayRule(0.9, 0.1)
    assert rule.group("backbone.queries", (5, 32), lambda _: (5, 6)) == (5, 1.0, 0.0)
    assert rule.group("backbone.mask_head.mlp.0.weight", (32, 32), lambda _: (5, 6))[2] == 0.1
