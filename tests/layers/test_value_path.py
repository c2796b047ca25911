import pytest
import torch

from mmonepeace.layers.value_path import encode_both_paths
from mmonepeace.models import OnePeace
from tests.conftest import TINY, randomise


@pytest.fixture(params=["shared", "per_block"])
def backbone(request):
    torch.manual_seed(0)
    options = dict(img_size=64, final_norm=True, rpb=request.param)
    return randomise(
        OnePeace(TINY, modalities={"image": {}, "text": {"vocab_size": 50}}, **options)
    ).eval()


def last_by_hand(block, x_BLD):
    """The last block with the value projection of a token in place of what it attends to."""
    attention = block.attn
    value_BLD = attention.v_proj(block.norm1(x_BLD))
    scaled = value_BLD.unflatten(-1, (attention.num_heads, -1))
    if attention.head_scale is not None:
        scaled = scaled * attention.head_scale[:, None]
    x_BLD = x_BLD + block.gamma_1 * attention.out_proj(attention.norm(scaled.flatten(2)))
    return x_BLD + block.gamma_2 * block.ffn["image"](block.norm2(x_BLD))


def test_the_value_path_is_the_value_projection_of_each_token(backbone):
    tokens = backbone.embed({"image": torch.rand(2, 3, 48, 80)})
    attended, own = encode_both_paths(backbone.layers, tokens)
    before, last = backbone.layers(tokens, [1, 2])
    torch.testing.assert_close(attended, last)
    torch.testing.assert_close(own, last_by_hand(backbone.layers[2], before))
    assert (own - last).abs().max() > 0.1


def test_padding_changes_nothing_real(backbone):
    ids = torch.tensor([[0, 7, 9, 11, 2], [0, 5, 2, 1, 1]])
    (both,) = encode_both_paths(backbone.layers, backbone.embed({"text": (ids, ids == 1)}))[1:]
    alone = backbone.embed({"text": (ids[1:, :3], ids[1:, :3] == 1)})
    (alone,) = encode_both_paths(backbone.layers, alone)[1:]
    torch.testing.assert_close(both[1:, :4], alone)
