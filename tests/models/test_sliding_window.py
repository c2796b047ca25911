import pytest
import torch
import torch.nn.functional as F

from mmonepeace.models.sliding_window import (
    BandResizer,
    SlidingWindow,
    window_starts,
    window_weights,
)

SIDES = [(9, 9, 4), (10, 9, 4), (97, 64, 43), (128, 64, 64), (130, 64, 1), (64, 1, 1), (500, 7, 5)]


def local_means(crops, owners):
    """Two channels that depend on what else a crop shows."""
    return torch.cat([crops.mean((1, 2, 3), keepdim=True) + crops[:, :1], crops[:, 1:2]], 1)


def full_result(window, images):
    """The bands put together, having checked that they leave no gap."""
    result = torch.full((len(images), 2, *images.shape[2:]), torch.nan)
    expected = (0, 0)
    for i, top, band in window.bands(images, local_means):
        assert (i, top) == expected
        result[i, :, top : top + band.shape[1]] = band
        bottom = top + band.shape[1]
        expected = (i, bottom) if bottom < images.shape[2] else (i + 1, 0)
    assert expected == (len(images), 0)
    return result


@pytest.mark.parametrize("blend", ["mean", "smooth"])
@pytest.mark.parametrize(("length", "window", "stride"), SIDES)
def test_windows_cover_a_side_and_their_weights_sum_to_one(length, window, stride, blend):
    starts = window_starts(length, window, stride)
    assert starts == sorted(set(starts))
    weights = window_weights(starts, window, blend)
    assert (weights > 0).all()
    total = torch.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + window] += weight
    torch.testing.assert_close(total, torch.ones(length))


def test_smooth_weights_fade_without_a_step():
    starts = window_starts(300, 100, 50)
    total = torch.zeros(len(starts), 300)
    for row, start, weight in zip(
        total, starts, window_weights(starts, 100, "smooth"), strict=True
    ):
        row[start : start + 100] = weight
    assert total.diff(dim=1).abs().max() < 0.05
    mean = window_weights(starts, 100, "mean")
    assert mean[1].unique().tolist() == [0.5]


@pytest.mark.parametrize("blend", ["mean", "smooth"])
@pytest.mark.parametrize("size", [(30, 40), (31, 77), (20, 90), (95, 29)])
def test_batches_of_crops_change_nothing(size, blend):
    images = torch.randn(3, 3, *size)
    expected = full_result(SlidingWindow((30, 40), (17, 31), 1, blend), images)
    assert not expected.isnan().any()
    for crop_batch in (2, 5, 100):
        actual = full_result(SlidingWindow((30, 40), (17, 31), crop_batch, blend), images)
        torch.testing.assert_close(actual, expected)
    alone = full_result(SlidingWindow((30, 40), (17, 31), 4, blend), images[1:2])
    torch.testing.assert_close(alone, expected[1:2])


def test_the_model_gets_the_image_of_each_crop_and_all_crops_have_one_size():
    seen = []

    def encode(crops, owners):
        assert crops[:, 0, 0, 0].tolist() == owners
        assert crops.shape[2:] == (8, 10)
        seen.extend(owners)
        return crops

    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 20, 10)
    for i, _, band in SlidingWindow((8, 16), (8, 8), 4).bands(images, encode):
        assert (band == i).all()
    assert seen == [0] * 3 + [1] * 3 + [2] * 3


def test_memory_is_for_one_row_of_windows():
    images = torch.randn(2, 3, 400, 50)
    for _, _, band in SlidingWindow((16, 20), (8, 20)).bands(images, local_means):
        assert band.untyped_storage().nbytes() == 2 * 16 * 50 * 4


def test_no_graph_is_kept():
    factor = torch.nn.Parameter(torch.ones(()))
    for _, _, band in SlidingWindow((8, 8), (4, 4)).bands(
        torch.randn(1, 3, 20, 20), lambda crops, owners: crops * factor
    ):
        assert not band.requires_grad


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("flip", [None, "horizontal", "vertical", "diagonal"])
@pytest.mark.parametrize("band", [1, 7, 1000])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((20, 30), (20, 30)), ((20, 30), (20, 17)), ((20, 30), (47, 61)), ((97, 11), (13, 40)),
        ((1, 5), (9, 9)), ((9, 9), (1, 1)), ((2000, 2), (3999, 3)), ((3648, 2), (1001, 2)),
    ],
)  # fmt: skip
def test_resizing_bands_is_resizing_the_full_map(old, new, band, flip, align_corners):
    x = torch.randn(3, *old)
    dims = {"horizontal": [2], "vertical": [1], "diagonal": [1, 2]}.get(flip, [])
    expected = F.interpolate(x.flip(dims)[None], new, mode="bilinear", align_corners=align_corners)[
        0
    ]
    resize = BandResizer(old[0], new, align_corners, flip)
    actual = torch.full_like(expected, torch.nan)
    for rows in x.split(max(band, old[0] // 50), 1):
        where, values = resize(rows)
        assert actual[:, where].isnan().all()
        actual[:, where] = values
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 512}, "crop_size is 512.*two positive"),
        ({"crop_size": (0, 8)}, r"crop_size is \(0, 8\).*positive"),
        ({"crop_size": (8, 8, 8)}, "crop_size"),
        ({"crop_size": (8.5, 8)}, "crop_size"),
        ({"stride": (-4, 4)}, "stride"),
        ({"stride": (4, 9)}, r"stride \(4, 9\) is larger than crop_size \(8, 8\)"),
        ({"crop_batch": 0}, "crop_batch is 0"),
        ({"crop_batch": 2.5}, "crop_batch is 2.5"),
        ({"blend": "foo"}, "blend is 'foo'.*'mean' or 'smooth'"),
        ({"accumulate_device": "disk"}, "accumulate_device is 'disk'"),
    ],
)
def test_windows_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**({"crop_size": (8, 8), "stride": (4, 4)} | options))


def test_an_unknown_flip_is_refused():
    with pytest.raises(ValueError, match="flip_direction is 'sideways'"):
        BandResizer(4, (4, 4), False, "sideways")


@pytest.mark.gpu
@pytest.mark.parametrize("device", [None, "cpu"])
def test_on_a_gpu_as_on_the_cpu(device):
    images = torch.randn(2, 3, 50, 90)
    expected = full_result(SlidingWindow((30, 40), (17, 31)), images)
    window = SlidingWindow((30, 40), (17, 31), accumulate_device=device)
    for i, top, band in window.bands(images.cuda(), local_means):
        assert band.device.type == (device or "cuda")
        place, values = BandResizer(band.shape[1], tuple(band.shape[1:]), False, "vertical")(band)
        rows = expected[i, :, top : top + band.shape[1]].flip(1)
        torch.testing.assert_close(values.cpu(), rows[:, place], rtol=1e-4, atol=1e-5)
