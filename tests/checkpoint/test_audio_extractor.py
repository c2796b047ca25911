import re

import pytest
import torch
from torchaudio.models import wav2vec2_model

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeace
from mmonepeace.spec import AUDIO_CONVS
from tests.conftest import TINY, randomise

DIM = 16
TYPE = "mmonepeace.PretrainedAudioExtractor"


def wav2vec(mode="layer_norm", bias=False, dim=DIM):
    """torchaudio's model: its extractor, and one small block."""
    convs = [(dim, kernel, stride) for kernel, stride in AUDIO_CONVS]
    model = wav2vec2_model(
        extractor_mode=mode, extractor_conv_layer_config=convs, extractor_conv_bias=bias,
        encoder_embed_dim=16, encoder_projection_dropout=0.0, encoder_pos_conv_kernel=4,
        encoder_pos_conv_groups=2, encoder_num_layers=1, encoder_num_heads=2,
        encoder_attention_dropout=0.0, encoder_ff_interm_features=16,
        encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=True,
        encoder_layer_drop=0.0, aux_num_out=None,
    )  # fmt: skip
    return randomise(model).eval()


def onepeace(**options):
    return OnePeace(TINY, modalities=dict(audio=dict(feature_dim=DIM)), **options).eval()


def fairseq_name(key):
    """As fairseq and WavLM's own files call it."""
    key = re.sub(r"(conv_layers\.\d+)\.conv\.", r"\1.0.", key)
    return re.sub(r"(conv_layers\.\d+)\.layer_norm\.", r"\1.2.1.", key)


LAYOUTS = {
    "torchaudio": lambda weights: weights,
    "transformers": lambda weights: {f"wav2vec2.{key}": value for key, value in weights.items()},
    "fairseq": lambda weights: {
        "args": None, "cfg": {"model": {"_name": "wav2vec2"}},
        "model": {fairseq_name(key): value for key, value in weights.items()},
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_equal_those_of_torchaudio(layout, tmp_path):
    theirs, path = wav2vec(), tmp_path / "wavlm.pt"
    torch.save(LAYOUTS[layout](theirs.state_dict()), path)
    model = onepeace(init_cfg=dict(type=TYPE, checkpoint=str(path)))
    model.init_weights()
    waves = torch.randn(2, 3 * 16_000 + 57)
    expected, _ = theirs.feature_extractor(waves, None)
    actual = model.adapters["audio"].extractor(waves[..., None])
    assert actual.shape == expected.shape == (2, 149, DIM)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def test_an_extractor_comes_after_a_checkpoint_and_changes_nothing_else(tmp_path):
    theirs, other = wav2vec(), randomise(onepeace())
    torch.save(theirs.state_dict(), tmp_path / "wavlm.pt")
    torch.save(other.state_dict(), tmp_path / "onepeace.pth")
    model = onepeace(
        init_cfg=[
            dict(type="Pretrained", checkpoint=str(tmp_path / "onepeace.pth")),
            dict(type=TYPE, checkpoint=str(tmp_path / "wavlm.pt")),
        ]
    )
    model.init_weights()
    before = other.state_dict()
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert len(changed) == 3 * len(AUDIO_CONVS)
    assert {name.rpartition("extractor")[0] for name in changed} == {"adapters.audio."}


def test_a_model_around_a_backbone_takes_it_too(tmp_path):
    torch.save(wav2vec().state_dict(), tmp_path / "wavlm.pt")
    model = torch.nn.Module()
    model.backbone = onepeace()
    loaded = checkpoint.load_audio_extractor(model, tmp_path / "wavlm.pt")
    assert len(loaded) == 21
    assert loaded[0].startswith("adapters.audio.extractor.0.")


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (lambda: wav2vec("group_norm"), r"lacks 12 of 21.*groups.*WavLM Large"),
        (lambda: wav2vec(bias=True), "7 convolutions of its extractor have biases"),
        (lambda: torch.nn.Linear(2, 2), r"has 0 layers.*expected 7"),
        (lambda: wav2vec(dim=8), r"\(8, 1, 10\) in the file.*Set feature_dim=8"),
    ],
)
def test_other_files_are_refused_with_their_name(theirs, message, tmp_path):
    torch.save(theirs().state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"(?s)other\.pt.*{message}"):
        checkpoint.load_audio_extractor(onepeace(), tmp_path / "other.pt")


def test_a_file_with_nan_is_refused(tmp_path):
    weights = wav2vec().state_dict()
    weights["feature_extractor.conv_layers.2.conv.weight"][0, 0, 0] = torch.nan
    torch.save(weights, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=r"nan\.pt.*2\.conv\.weight"):
        checkpoint.load_audio_extractor(onepeace(), tmp_path / "nan.pt")


def test_models_without_an_extractor_say_so(tmp_path):
    log_mel = OnePeace(TINY, modalities=dict(audio=dict(features="log-mel", feature_dim=4)))
    for model in (OnePeace(TINY), log_mel):
        with pytest.raises(CheckpointError, match="features='waveform'"):
            checkpoint.load_audio_extractor(model, tmp_path / "wavlm.pt")
