import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.models import OnePeace, OnePeaceViTAdapter
from tests.conftest import randomise

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "ffn_dim": 48}
BN = {"type": "BN"}


def build(**kwargs):
    return OnePeaceViTAdapter(TINY, img_size=64, spatial_dim=8, norm_cfg=BN, **kwargs)


@pytest.mark.parametrize("size", [(64, 64), (97, 513), (16, 16), (1, 1), (480, 640), (33, 250)])
def test_four_scales_of_any_size_forward_and_backward(size):
    model = build(rpb="per_block", drop_path_rate=0.2)
    maps = model(torch.randn(2, 3, *size))
    for stride, x in zip((4, 8, 16, 32), maps, strict=True):
        assert x.shape == (2, 32, -(-size[0] // stride), -(-size[1] // stride))
    sum(x.square().sum() for x in maps).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_padding_by_hand_changes_nothing():
    model = randomise(build()).eval()
    image = torch.randn(1, 3, 50, 90)
    padded = torch.nn.functional.pad(image, (0, 6, 0, 14))
    for a, b in zip(model(image), model(padded), strict=True):
        assert torch.equal(a, b[..., : a.shape[-2], : a.shape[-1]])


def test_activation_checkpointing_changes_no_gradient():
    images, gradients = torch.randn(2, 3, 64, 96), []
    state = randomise(build()).state_dict()
    for with_cp in (False, True):
        model = build(with_cp=with_cp, drop_path_rate=0.3)
        model.load_state_dict(state)
        torch.manual_seed(3)
        sum(x.square().mean() for x in model(images)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_injectors_that_give_nothing_leave_the_encoder_as_it_is():
    """With gamma at zero the deepest features are those of the plain backbone."""
    model = randomise(build()).eval()
    plain = OnePeace(TINY, img_size=64).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "vit_adapter" not in k})
    image = torch.randn(1, 3, 64, 64)
    for interaction in model.vit_adapter.interactions:
        torch.nn.init.zeros_(interaction.injector.gamma)
    tokens = model.adapters["image"](image)
    seen = []

    def run(x, start, stop):
        out = model.layers.bind(tokens)(x, start, stop)
        seen.append(out)
        return out

    model.vit_adapter(image, tokens.x_BLD, run)
    expected = plain(image)[0]
    got = seen[-1][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(got, expected)


def test_groups_of_blocks_follow_each_other():
    assert build().vit_adapter.groups == [(0, 0), (1, 1), (2, 2), (3, 3)]
    for wrong in (
        [[0, 1], [2, 3]],
        [[0, 0], [2, 2], [1, 1], [3, 3]],
        [[0, 0], [1, 1], [2, 2], [3, 4]],
    ):
        with pytest.raises(ValueError, match="cover the 4 blocks"):
            build(interaction_indexes=wrong)


def test_a_pretrained_file_has_no_adapter_but_all_of_the_encoder(tmp_path):
    plain = OnePeace(TINY, img_size=96)
    path = tmp_path / "plain.safetensors"
    checkpoint.write(path, checkpoint.Conversion(plain.state_dict(), {"format": "mmonepeace"}))
    model = build(rpb="per_block", init_cfg={"type": "Pretrained", "checkpoint": str(path)})
    model.init_weights()
    assert torch.equal(
        model.layers[3].ffn["image"].up.weight, plain.layers[3].ffn["image"].up.weight
    )
    weights = {k: v for k, v in plain.state_dict().items() if "layers.2." not in k}
    checkpoint.write(path, checkpoint.Conversion(weights, {"format": "mmonepeace"}))
    with pytest.raises(CheckpointError, match="blocks"):
        build().load_checkpoint(str(path))


def test_learning_rates_of_the_adapter_are_the_highest():
    model = build(rpb="per_block")
    assert model.get_layer_depth("backbone.vit_adapter.up.weight", "backbone.") == (5, 6)
    assert model.get_layer_depth("backbone.adapters.image.rpb.tables.2", "backbone.") == (3, 6)


def test_bfloat16_stays_near_float32():
    model = build().eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(image)
    for a, b in zip(exact, rough, strict=True):
        assert (a - b.float()).abs().max() < 0.05 * a.abs().max()
