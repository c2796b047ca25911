import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.models import OnePeace
from tests.checkpoint import official
from tests.conftest import TINY


@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_official_key_has_an_own_name_and_finds_back(pre_norm):
    names = official.full(pre_norm=pre_norm, per_block=True, pretraining=True, classifier=True)
    buffers = {n for n in names if n.endswith(("rp_bucket", "position_idx", "version"))}
    assert len(buffers) == 7
    assert {n for n in names if checkpoint.own_name(n) is None} == buffers
    own = [checkpoint.own_name(n) for n in names if n not in buffers]
    assert len(set(own)) == len(own)
    there = [checkpoint.official_name(name) for name in own]
    assert [checkpoint.own_name(name) for name in there] == own
    if not pre_norm:
        assert there == [n for n in names if n not in buffers]


def test_the_keys_here_are_those_of_the_released_model():
    with torch.device("meta"):
        names = official.full(1536, 6144, 40, 24, side=16, vocab_size=50264, feature_dim=512)
    assert len(names) == 1394
    own = checkpoint.to_own(names).weights
    assert len(own) == 1389
    assert sum(value.numel() for value in own.values()) == 3_884_740_545


def test_key_table_is_its_own_inverse():
    names = [
        "image_adapter.embed_images.4.layer_norm.bias",
        "image_adapter.embed_images.weight",
        "text_adapter.embed_positions.weight",
        "audio_adapter.embed_audios.0.conv_layers.3.2.1.weight",
        "layers.11.self_attn.q_proj.bias",
        "layers.3.self_attn.c_attn",
        "layers.3.attn_ln.weight",
        "layers.7.audio_ffn.0.wi_1.weight",
        "layers.7.gamma_2",
        "image_layer_norm.weight",
        "audio_proj.bias",
        "logit_scale",
    ]
    own = [checkpoint.own_name(name) for name in names]
    assert len(set(own)) == len(names)
    fused, beside = "encoder_wrapper.fusion_model.", ("audio_proj", "logit_scale")
    prefixed = [
        n if n.startswith(beside) else f"{fused if 'layer' in n.split('.')[0] else 'encoder_wrapper.'}{n}"
        for n in names
    ]  # fmt: skip
    assert [checkpoint.official_name(name) for name in own] == prefixed
    assert [checkpoint.own_name(name) for name in prefixed] == own


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("encoder_wrapper.audio_adapter.embed_positions.3.0.bias", "adapters.audio.pos_conv.3.bias"),
        ("encoder_wrapper.audio_adapter.embed_positions.1.3.0.bias", "adapters.audio.pos_conv.3.bias"),
        ("encoder_wrapper.audio_adapter.embed_positions.0.bias", "adapters.audio.pos_conv.0.bias"),
        ("decoder_wrapper.audio_adapter.embed_positions.weight", "decoder.adapters.audio.pos_embed"),
        ("decoder_wrapper.fusion_model.layers.1.attn_ln.bias", "decoder.layers.1.post_attn_norm.bias"),
        ("decoder_wrapper.text_proj.bias", None),
        ("classify_head.attn_pooling_func.v_proj.bias", "head.pool.v_proj.bias"),
        ("classify_head.attn_pooling_func.q", "head.pool.query"),
        ("classify_head.classifier.3.bias", "head.classifier.3.bias"),
        ("audio_mask_token", "mask_tokens.audio"),
        ("encoder.layers.3.rel_pos_table.weight", "adapters.image.rpb.tables.3"),
        ("backbone.net.encoder.layers.0.gamma_1", "layers.0.gamma_1"),
        ("encoder_wrapper.fusion_model.version", None),
        ("decode_head.pixel_decoder.mask_feature.bias", "decode_head.pixel_decoder.mask_feature.bias"),
        (
            "decode_head.transformer_decoder.layers.8.attentions.1.attn.in_proj_bias",
            "decode_head.transformer_decoder.layers.8.self_attn.attn.in_proj_bias",
        ),
        (
            "decode_head.pixel_decoder.encoder.layers.0.ffns.0.layers.1.bias",
            "decode_head.pixel_decoder.encoder.layers.0.ffn.layers.1.bias",
        ),
        ("backbone.spm.stem.1.running_mean", "vit_adapter.spatial_prior.stem.1.running_mean"),
        ("backbone.norm3.num_batches_tracked", "vit_adapter.norm3.num_batches_tracked"),
        ("backbone.level_embed", "vit_adapter.level_embed"),
        ("decode_head.level_embed.weight", "decode_head.level_embed.weight"),
        ("backbone.net.encoder.layers.2.self_attn.rel_pos_h", "layers.2.attn.rel_pos_h"),
        ("backbone.simfp_5.2.norm.weight", "neck.levels.3.2.norm.weight"),
        ("roi_heads.box_head.2.conv4.norm.bias", "roi_head.bbox_head.2.shared_convs.3.ln.bias"),
        ("roi_heads.mask_head.mask_fcn1.weight", "roi_head.mask_head.convs.0.conv.weight"),
        ("fc_norm.weight", "norms.image.weight"),
        ("head.bias", "head.fc.bias"),
        ("backbone.image_adapter.temporal_embedding", "adapters.image.temporal_embed"),
        ("backbone.encoder.layers.1.T_Adapter.D_fc2.bias", "layers.1.temporal_adapter.up.bias"),
        ("backbone.encoder.layers.1.T_Adapter_in.D_fc1.weight", "layers.1.temporal_adapter_in.down.weight"),
        ("encoder.layers.1.S_Adapter.D_fc1.bias", "layers.1.spatial_adapter.down.bias"),
        ("encoder.layers.1.MLP_Adapter.D_fc1.bias", "layers.1.ffn_adapter.down.bias"),
        ("cls_head.fc_cls.weight", "head.fc_cls.weight"),
        ("neck.conv.weight", None),
    ],
)  # fmt: skip
def test_official_names(name, own):
    assert checkpoint.own_name(name) == own


@pytest.mark.parametrize("name", ["patch_embed.weight", "decoder.logit_scale", "layers.x"])
def test_names_of_others_are_none_of_ours(name):
    assert checkpoint.official_name(name) is None


def test_a_file_that_a_runner_saved_is_own():
    model = OnePeace(TINY, img_size=64)
    weights = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    beside = {
        "logit_scale": torch.tensor(1.0),
        "projections.text.bias": torch.zeros(3),
        "decode_head.bias": torch.zeros(2),
    }
    converted = checkpoint.to_own(weights | beside | {"ema.bias": torch.zeros(2)}, {})
    assert converted.weights.keys() == model.state_dict().keys() | beside.keys()
    assert [key for key, name, _ in converted.rows if name is None] == ["ema.bias"]


def test_official_audio_was_trained_with_leaking_padding():
    weights = official.full()
    converted = checkpoint.to_own(weights)
    assert converted.meta["audio_padding"] == "compat"
    assert converted.meta["official_layout"] == "full"
    for padding in ("masked", "compat"):
        own = checkpoint.to_own(converted.weights, {"audio_padding": padding})
        assert own.meta["audio_padding"] == padding
    image = {k: v for k, v in weights.items() if "audio" not in k and "text" not in k}
    assert "audio_padding" not in checkpoint.to_own(image).meta
    assert checkpoint.select_vision(converted).meta.keys() == {"format", "official_layout"}
