"""The backbone as a folder."""

import pytest
import torch

from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeace, OnePeaceViTAdapter
from tests.conftest import TINY, randomise


def backbone(**options):
    return randomise(OnePeace(TINY, img_size=64, **options)).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rpb", ["shared", "per_block"])
def test_a_backbone_comes_back_as_it_was(tmp_path, images, dtype, rpb):
    model = backbone(rpb=rpb, final_norm=True).to(dtype)
    model.save_pretrained(tmp_path / "m")
    again = OnePeace.from_pretrained(tmp_path / "m")
    assert {x.dtype for x in again.parameters()} == {dtype}
    assert not again.training
    images = images.to(dtype)
    assert (again(images)[0] == model(images)[0]).all()
    assert (
        OnePeace.from_pretrained(tmp_path / "m", torch.float32).norms.image.bias.dtype
        == torch.float32
    )


def test_options_that_weights_do_not_decide_are_those_of_the_call(tmp_path, images):
    model = backbone()
    model.save_pretrained(tmp_path / "m")
    again = OnePeace.from_pretrained(
        tmp_path / "m", out_indices=[0, 2], rpb="per_block", frozen_stages=1, drop_path_rate=0.1
    )
    assert torch.allclose(again(images)[1], model(images)[0], atol=1e-3)
    assert not again.layers[0].norm1.weight.requires_grad
    assert again.layers[1].norm1.weight.requires_grad
    again.init_weights()  # as a runner does: weights stay
    assert torch.allclose(again(images)[1], model(images)[0], atol=1e-3)


def test_training_does_not_change_the_file(tmp_path):
    backbone().save_pretrained(tmp_path / "m")
    model = OnePeace.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    again = OnePeace.from_pretrained(tmp_path / "m")  # its fingerprint is checked
    assert (again.layers[0].norm1.weight != model.layers[0].norm1.weight).all()
    model.save_pretrained(tmp_path / "m")
    assert (
        OnePeace.from_pretrained(tmp_path / "m").layers[0].norm1.weight
        == model.layers[0].norm1.weight
    ).all()


def test_audio_keeps_its_padding_and_clips(tmp_path):
    audio = {"feature_dim": 8, "num_buckets": 16, "pos_depth": 2, "pos_kernel": 5, "pos_groups": 4,
             "padding": "compat", "clip_seconds": 5.0}  # fmt: skip
    backbone(modalities={"audio": audio}).save_pretrained(tmp_path / "m")
    adapter = OnePeace.from_pretrained(tmp_path / "m").adapters["audio"]
    assert (adapter.padding, adapter.clip_seconds) == ("compat", 5.0)


def test_an_embedder_is_not_made_of_a_backbone(tmp_path):
    from mmonepeace.apis import Embedder

    backbone().save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"class is 'OnePeace'.*OnePeace\.from_pretrained"):
        Embedder.from_pretrained(tmp_path / "m")


def test_models_with_more_parameters_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="save OnePeace"):
        OnePeaceViTAdapter.from_pretrained(tmp_path)


def test_two_dtypes_are_refused(tmp_path):
    model = backbone()
    model.layers.half()
    with pytest.raises(CheckpointError, match="float16 and float32; expected one dtype"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
