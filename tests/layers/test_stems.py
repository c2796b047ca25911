import pytest
import torch

from mmonepeace.checkpoint import infer_config
from mmonepeace.layers.adapters.image import hmlp_stem
from mmonepeace.models import OnePeace, OnePeaceViTDet
from mmonepeace.spec import Arch


def test_only_what_has_the_hmlp_stem_needs_a_width_that_is_a_multiple_of_4():
    for width in (30, 45):
        arch = Arch(width, depth=1, num_heads=5, ffn_dim=20)
        OnePeace(arch, modalities=dict(text=dict(vocab_size=9)))
        with pytest.raises(ValueError, match=f"hmlp stem.*{width} is not a multiple of 4"):
            OnePeace(arch)
        with pytest.raises(ValueError, match="multiple of 4"):
            hmlp_stem(width)


OVERLAPPING = dict(embed_dim=32, depth=2, num_heads=2, stem="overlapping")


@pytest.mark.parametrize("kind", [OnePeace, OnePeaceViTDet])
@pytest.mark.parametrize("with_cp", [False, True])
def test_maps_of_an_overlapping_stem_have_the_image_s_size(kind, with_cp):
    model = kind(OVERLAPPING, img_size=64, stem_maps=True, out_indices=[0, 1], with_cp=with_cp)
    images = torch.randn(2, 3, 41, 70)
    maps = model(images)
    assert [tuple(x.shape) for x in maps] == [
        (2, 8, 11, 18), (2, 16, 6, 9), (2, 32, 3, 5), (2, 32, 3, 5)
    ]  # fmt: skip
    sum(x.square().sum() for x in maps).backward()
    stem = model.adapters["image"].stem
    assert all(p.grad is not None and p.grad.any() for p in stem.parameters())


def test_patches_of_an_overlapping_stem_see_their_neighbours():
    model = OnePeace(OVERLAPPING, img_size=96)
    images = torch.zeros(1, 3, 96, 96)
    images[..., 16:32, 16:32] = 1  # one patch
    changed = model.embed({"image": images}).x_BLD - model.embed({"image": images * 0}).x_BLD
    patches = changed[0, 1:].abs().sum(-1).view(6, 6) > 1e-6
    assert patches[:3, :3].all()
    assert not patches[4:].any()


def test_padding_does_not_dominate_the_gradients_of_an_overlapping_stem():
    model = OnePeace(OVERLAPPING, img_size=64)
    norms = []
    for side in (64, 48):
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        images[..., side:, :] = 0
        model.zero_grad()
        model(images)[0].square().mean().backward()
        stem = model.adapters["image"].stem
        norms.append(max(p.grad.norm() for p in stem.parameters()))
    assert norms[1] < 3 * norms[0]


def test_the_stem_is_read_off_a_checkpoint():
    for stem in ("hmlp", "conv", "overlapping"):
        model = OnePeace(OVERLAPPING | dict(stem=stem), img_size=64)
        assert infer_config(model.state_dict())["arch"]["stem"] == stem


def test_a_stem_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="stem is 'vit'; choose one of hmlp, conv, overlapping"):
        OnePeace(OVERLAPPING | dict(stem="vit"))
    with pytest.raises(ValueError, match="36 is not a multiple of 8"):
        OnePeace(OVERLAPPING | dict(embed_dim=36))
    with pytest.raises(ValueError, match=r"stem_maps needs arch\.stem 'overlapping'.*'hmlp'"):
        OnePeace(OVERLAPPING | dict(stem="hmlp"), stem_maps=True)
