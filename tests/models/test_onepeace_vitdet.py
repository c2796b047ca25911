import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.layers.relative_position_bias import DenseBias
from mmonepeace.models import OnePeace, OnePeaceViTDet, SimpleFeaturePyramid
from tests.conftest import randomise

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "ffn_dim": 48}


def build(**kwargs):
    return OnePeaceViTDet(TINY, **{"img_size": 128, "window_size": 4, **kwargs})


@pytest.mark.parametrize("rpb", ["shared", "per_block"])
@pytest.mark.parametrize("size", [(128, 128), (97, 300), (16, 16), (1, 1), (33, 250)])
def test_any_size_runs_forward_and_backward(size, rpb):
    model = build(rpb=rpb, drop_path_rate=0.2)
    (out,) = model(torch.randn(2, 3, *size))
    assert out.shape == (2, 32, -(-size[0] // 16), -(-size[1] // 16))
    out.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_there_is_no_cls_and_the_last_of_every_four_blocks_is_global():
    model = OnePeaceViTDet({**TINY, "depth": 9})
    assert "adapters.image.cls_token" not in model.state_dict()
    assert [i for i, window in enumerate(model.windows) if window is None] == [3, 7]
    assert model.layers[0].attn.rel_pos_h.shape == (31, 16)
    assert model.layers[3].attn.rel_pos_h.shape == (159, 16)


def test_windows_of_the_size_of_the_image_are_global():
    windowed = randomise(build(window_size=8, img_size=128, rpb="shared", global_blocks=[])).eval()
    globally = build(img_size=128, global_blocks=range(4)).eval()
    globally.load_state_dict(windowed.state_dict())
    image = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(windowed(image)[0], globally(image)[0], rtol=1e-4, atol=1e-5)


def test_it_starts_as_the_pretrained_encoder_without_cls(tmp_path):
    """Decomposed positions start at zero, so all that a file gives is there."""
    plain = randomise(OnePeace(TINY, img_size=256))
    path = tmp_path / "plain.safetensors"
    checkpoint.write(path, checkpoint.Conversion(plain.state_dict(), {"format": "mmonepeace"}))
    model = build(img_size=256, global_blocks=range(4), decomposed=True).eval()
    report = model.load_checkpoint(str(path))
    assert report.unused == ["adapters.image.cls_token"]
    assert all("rel_pos" in key for key in report.missing)
    # The same blocks on the same patches, with the rows of CLS left out of the bias.
    image = torch.randn(1, 3, 256, 256)
    tokens = plain.eval().adapters["image"](image)
    x = tokens.x_BLD[:, 1:]
    for i, layer in enumerate(plain.layers):
        bias = DenseBias(tokens.bias(i, x.dtype).dense()[..., 1:, 1:])
        x = layer(x, {"image": 256}, bias)
    expected = x.transpose(1, 2).unflatten(2, (16, 16))
    torch.testing.assert_close(model(image)[0], expected, rtol=1e-3, atol=1e-4)


def test_weights_of_another_size_are_resampled():
    small, large = randomise(build()), build(img_size=192)
    large.load_state_dict(small.state_dict())
    assert large.layers[3].attn.rel_pos_h.shape == (23, 16)
    assert torch.equal(large.layers[0].attn.rel_pos_h, small.layers[0].attn.rel_pos_h)


def test_activation_checkpointing_changes_no_gradient():
    images, gradients = torch.randn(2, 3, 80, 112), []
    state = randomise(build()).state_dict()
    for with_cp in (False, True):
        model = build(with_cp=with_cp, drop_path_rate=0.3)
        model.load_state_dict(state)
        torch.manual_seed(3)
        model(images)[0].square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_wrong_blocks_are_named():
    with pytest.raises(ValueError, match=r"\[4\].*0 to 3"):
        build(global_blocks=[4])


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (1, 1)])
def test_pyramid_has_five_scales(grid):
    neck = SimpleFeaturePyramid(32, 24)
    maps = neck((None, torch.randn(2, 32, *grid, requires_grad=True)))
    rows, columns = grid
    half = (-(-rows // 2), -(-columns // 2))
    sizes = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), grid, half]
    sizes.append((-(-half[0] // 2), -(-half[1] // 2)))
    assert [m.shape for m in maps] == [(2, 24, *size) for size in sizes]
    sum(m.square().sum() for m in maps).backward()
    assert [name for name, p in neck.named_parameters() if not p.grad.any()] == []


def test_maps_lie_in_memory_as_roi_align_reads_them():
    """mmcv's operator takes no notice of strides: channels-last maps would be scrambled."""
    maps = build()(torch.randn(2, 3, 96, 64))
    assert all(m.is_contiguous() for m in (*maps, *SimpleFeaturePyramid(32, 24)(maps)))


@pytest.mark.ops
def test_regions_are_those_of_the_maps():
    from mmcv.ops import roi_align

    maps = SimpleFeaturePyramid(32, 24)(build()(torch.randn(2, 3, 96, 64)))
    box = torch.tensor([[1, 0.0, 0.0, 64.0, 96.0]])
    for level, stride in zip(maps[:3], (4, 8, 16), strict=True):
        region = roi_align(level, box, (96 // stride, 64 // stride), 1 / stride, 1, "avg", True)
        torch.testing.assert_close(region, level[1:])
