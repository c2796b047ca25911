import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace.datasets.image_io import ImageError, fast_sides, resize, to_rgb, to_tensor


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape or (20, 30, 3), dtype=np.uint8)


def test_every_kind_of_source_gives_the_same_image(tmp_path):
    array = pixels()
    path = tmp_path / "image.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for source in (path, str(path), Image.fromarray(array), array, array / 255, tensor):
        assert np.array_equal(to_rgb(source), array)
    assert np.array_equal(to_rgb(tensor / 255), array)
    assert np.array_equal(to_rgb(np.dstack([array, pixels(20, 30)])), array)  # alpha dropped
    assert to_tensor(to_rgb(path)).equal(tensor)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_grey_arrays_become_three_equal_channels(shape):
    grey = pixels(*shape)
    rgb = np.asarray(to_rgb(grey))
    assert np.array_equal(rgb, np.dstack([grey.reshape(20, 30)] * 3))
    assert np.array_equal(to_rgb(torch.from_numpy(grey.reshape(1, 20, 30))), rgb)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_modes_convert_as_pillow_does_without_a_warning(mode, recwarn):
    source = Image.fromarray(pixels()).convert(mode)
    expected = source.convert("RGB")
    if mode == "P":
        source.info["transparency"] = bytes([0, 128])
    assert np.array_equal(to_rgb(source), expected)
    assert not recwarn


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    wide = Image.fromarray(grey.astype(np.int32))
    assert wide.mode == "I"
    for source in (tmp_path / "deep.png", wide):
        assert np.asarray(to_rgb(source))[0, :, 0].tolist() == [0, 1, 128, 255]
    with pytest.raises(ImageError, match=r"-1\.\.7, not 16-bit"):
        to_rgb(Image.fromarray(np.array([[-1, 7]], np.int32)))


def test_float_images_have_values_in_0_to_1():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert image.mode == "F"
    assert np.asarray(to_rgb(image))[0, :, 1].tolist() == [0, 128, 255]


def test_exif_orientation_is_applied(tmp_path):
    array = pixels()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees, clockwise
    Image.fromarray(array).save(tmp_path / "rotated.png", exif=exif)
    assert np.array_equal(to_rgb(tmp_path / "rotated.png"), np.rot90(array, -1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pixels(20, 30, 2), "got .20, 30, 2."),
        (pixels(2, 20, 30, 3), "got .2, 20, 30, 3."),
        (np.zeros((0, 4, 3), np.uint8), "got .0, 4, 3."),
        (torch.zeros(4, 20, 30), "got .4, 20, 30."),
        (torch.zeros(20, 30), "got .20, 30."),
        (pixels().astype(float), "0..1, this one in 0..255"),
        (np.full((4, 4), np.nan), "0..1, this one in nan"),
        (pixels().astype(np.uint16), "got uint16"),
    ],
)
def test_unusable_arrays_are_refused(source, message):
    with pytest.raises(ImageError, match=message):
        to_rgb(source)


def test_errors_name_the_file(tmp_path, monkeypatch):
    text, cut, large = (tmp_path / name for name in ("text.jpg", "cut.jpg", "large.png"))
    text.write_text("this is not an image")
    Image.fromarray(pixels(200, 200, 3)).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    Image.fromarray(pixels(200, 200, 3)).save(large)
    expected = {
        tmp_path / "none.png": "no such file",
        tmp_path: "no such file",
        text: "cannot identify",
        cut: "truncated",
        large: "exceeds limit",
    }
    for path, message in expected.items():
        if path == large:
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ImageError, match=message) as caught:
            to_rgb(path)
        assert str(path) in str(caught.value)


def test_square_resizing_is_pillows_antialiased_bicubic():
    image = Image.fromarray(pixels(60, 150, 3))
    expected = image.resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(resize(image, 64), expected)
    assert resize(image, (32, 48)).size == (48, 32)
    assert np.array_equal(resize(image, (60, 150)), image)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (100, 100), (60, 150), (480, 640), (3, 4000), (4000, 1), (97, 89)]
)
def test_kept_ratio_spends_the_same_area_on_whole_patches(height, width):
    new_width, new_height = resize(Image.new("RGB", (width, height)), 256, keep_ratio=True).size
    assert new_height % 16 == new_width % 16 == 0
    assert min(new_height, new_width) >= 16
    assert 0.8 * 256**2 < new_height * new_width < 1.2 * 256**2
    if 1 / 4 < height / width < 4:
        assert new_height / new_width == pytest.approx(height / width, rel=0.12)
    else:
        assert (new_height > new_width) == (height > width)


def test_sizes_below_one_pixel_are_refused():
    for size in (0, (16, -1)):
        with pytest.raises(ValueError, match="at least 1"):
            resize(Image.new("RGB", (4, 4)), size)


def photograph(path, size=(800, 600), **options):
    """Smooth waves, as a file; JPEG hardly changes them."""
    y, x = np.mgrid[: size[1], : size[0]] / 40
    waves = [np.sin(x), np.cos(y), np.sin(x + y)]
    image = Image.fromarray(np.rint(127 + 100 * np.stack(waves, 2)).astype(np.uint8))
    image.save(path, quality=95, **options)
    return path


@pytest.mark.parametrize(
    ("at_least", "size"),
    [(76, (200, 150)), (75, (100, 75)), (300, (400, 300)), (301, (800, 600)), (None, (800, 600))],
)
def test_jpeg_files_may_be_decoded_at_a_part_of_their_size(tmp_path, at_least, size):
    path = photograph(tmp_path / "p.jpg")
    assert to_rgb(path, at_least).size == to_rgb(path.read_bytes(), at_least).size == size
    assert to_rgb(photograph(tmp_path / "p.png"), at_least).size == (800, 600)


@pytest.mark.parametrize("rotated", [False, True])
def test_fast_decoding_changes_resized_pixels_a_little(tmp_path, rotated):
    exif = Image.Exif()
    if rotated:
        exif[0x0112] = 6
    path = photograph(tmp_path / "p.jpg", (2000, 1200), exif=exif)
    whole, fast = to_rgb(path), to_rgb(path, fast_sides(64))
    assert fast.size == ((150, 250) if rotated else (250, 150))
    difference = to_tensor(resize(whole, 64)).float() - to_tensor(resize(fast, 64))
    assert difference.abs().mean() < 2
