"""Equal to making the upsampled maps, which PyTorch does here."""

import pytest
import torch
import torch.nn.functional as F

from mmonepeace.layers import upsampled_maps
from mmonepeace.layers.upsampled_maps import convolve_upsampled, upsampled_cross_entropy


@pytest.fixture(params=[0, 2**62], ids=["small", "upsampled"])
def where_it_pays(request, monkeypatch):
    """Both ways, which are chosen by the number of operations."""
    monkeypatch.setattr(upsampled_maps, "_MIN_PRODUCTS", request.param)


SIZES = {  # those of maps, and the one they are resized to
    "a pyramid": ([(16, 24), (8, 12), (4, 6), (2, 3)], (16, 24)),
    "odd sides": ([(13, 7), (7, 4), (4, 2), (2, 1)], (13, 7)),
    "single rows and columns": ([(1, 9), (1, 1)], (1, 9)),
    "only smaller ones": ([(3, 3), (2, 5)], (17, 11)),
    "hardly smaller": ([(8, 8), (7, 8)], (8, 8)),
    "larger ones": ([(5, 5), (11, 9)], (5, 5)),
}


@pytest.mark.usefixtures("where_it_pays")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_a_convolution_of_upsampled_maps(name, align_corners, bias):
    torch.manual_seed(0)
    sizes, size = SIZES[name]
    maps = [
        torch.randn(2, 3 + i, *s, dtype=torch.float64, requires_grad=True)
        for i, s in enumerate(sizes)
    ]
    channels = sum(x.shape[1] for x in maps)
    weight = torch.randn(5, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(5, dtype=torch.float64, requires_grad=True) if bias else None
    resized = [F.interpolate(x, size, mode="bilinear", align_corners=align_corners) for x in maps]
    expected = F.conv2d(torch.cat(resized, 1), weight, offset, padding=1)
    actual = convolve_upsampled(weight, offset, maps, size, align_corners)
    torch.testing.assert_close(actual, expected)
    leaves = [*maps, weight, *([offset] if bias else [])]
    upstream = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("where_it_pays")
def test_a_convolution_under_autocast_is_as_near_as_that_of_upsampled_maps():
    torch.manual_seed(0)
    maps = [torch.randn(1, 64, 32 >> i, 32 >> i) for i in range(3)]
    weight = torch.randn(32, 192, 3, 3)
    resized = torch.cat([F.interpolate(x, (32, 32), mode="bilinear") for x in maps], 1)
    exact = F.conv2d(resized, weight, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.conv2d(resized, weight, padding=1)
        ours = convolve_upsampled(weight, None, maps, (32, 32))
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).norm() <= 1.5 * (plain - exact).norm()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("low", "size"), [((8, 6), (32, 24)), ((7, 5), (50, 33)), ((1, 1), (5, 4)), ((9, 9), (9, 9)),
                      ((12, 12), (5, 7))],
)  # fmt: skip
@pytest.mark.parametrize("band", [2**30, 1])
def test_the_cross_entropy_of_upsampled_logits(
    band, low, size, align_corners, weighted, monkeypatch
):
    monkeypatch.setattr(upsampled_maps, "_CPU_BAND", band)
    torch.manual_seed(0)
    logits = torch.randn(2, 4, *low, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (2, *size))
    labels[0, : size[0] // 2] = 9
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64) if weighted else None
    full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    expected = F.cross_entropy(full, labels, weight, ignore_index=9, reduction="sum")
    total, right = upsampled_cross_entropy(logits, labels, weight, 9, align_corners)
    torch.testing.assert_close(total, expected)
    assert int(right) == int((full.argmax(1) == labels).sum())
    (ours,), (theirs,) = (torch.autograd.grad(3 * x, logits) for x in (total, expected))
    torch.testing.assert_close(ours, theirs)


def test_large_logits_and_pixels_that_all_count_for_nothing():
    logits = (1e4 * torch.randn(1, 3, 4, 4)).requires_grad_()
    total, _ = upsampled_cross_entropy(logits, torch.randint(3, (1, 16, 16)))
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.isfinite()
    assert gradient.isfinite().all()
    total, right = upsampled_cross_entropy(logits, torch.full((1, 16, 16), 255))
    (gradient,) = torch.autograd.grad(total, logits)
    assert total == right == 0
    assert gradient.count_nonzero() == 0


def test_the_loss_is_in_float32_under_autocast():
    logits = torch.randn(1, 5, 8, 8).bfloat16().requires_grad_()
    labels = torch.randint(5, (1, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = upsampled_cross_entropy(logits, labels)
    full = F.interpolate(logits.detach().float(), (32, 32), mode="bilinear")
    torch.testing.assert_close(total, F.cross_entropy(full, labels, reduction="sum"))
    assert torch.autograd.grad(total, logits)[0].dtype == torch.bfloat16
