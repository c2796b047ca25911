import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from mmonepeace.datasets import image_io, sample_errors
from mmonepeace.datasets.image_io import fast_sides, resize, to_rgb, to_tensor
from mmonepeace.datasets.sample_errors import ImageError
from tests.conftest import ROOT


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
        text: "not an image of a known format",
        cut: "truncated",
        large: "20.* 200 pixels, more than 100",
    }
    for path, message in expected.items():
        if path == large:
            monkeypatch.setattr(image_io, "MAX_PIXELS", 100)
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


def exif(*entries):
    """EXIF data with entries (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack("<HHI4s", tag, *entry) for tag, *entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")
EXIF = {
    "whole": exif(TURNED),
    "a width as text": exif((0x0100, 2, 3, b"48\0\0"), TURNED),
    "orientation as text": exif((0x0112, 2, 2, b"6\0\0\0")),
    "cut after it": exif(TURNED)[:-4],
    "cut with others": exif(TURNED, (0x0110, 2, 40, b"\xff\xff\0\0"), (0x0131, 2, 9, b"zzzz"))[:-9],
    "a fraction of nothing": exif((0x011A, 5, 1, b"\xf0\xff\0\0"), TURNED),
    "big-endian": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
}
BROKEN_EXIF = {
    "cut before it": exif(TURNED)[:20],
    "no number": exif((0x0112, 2, 2, b"x\0\0\0")),
    "nine": exif((0x0112, 3, 1, b"\x09\0\0\0")),
    "begins beyond its end": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "garbage": b"Exif\0\0garbage",
}


@pytest.mark.filterwarnings("ignore:Truncated|Corrupt|Tag data")
@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "avif"])
@pytest.mark.parametrize("name", [*EXIF, *BROKEN_EXIF])
def test_images_are_read_whatever_their_exif_data_and_turned_if_they_tell(name, suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    data = {**EXIF, **BROKEN_EXIF}[name]
    image = Image.fromarray(pixels(40, 48, 3))
    if suffix == "avif":
        if not features.check("avif"):
            pytest.skip("Pillow without AVIF")
        # Pillow checks what it writes. Its orientation is stored beside the EXIF data too.
        written = exif(TURNED).ljust(200, b"x")
        image.save(path, exif=written)
        data = data.removeprefix(b"Exif\0\0").ljust(194, b"\0")
        path.write_bytes(path.read_bytes().replace(written[6:], data))
    else:
        image.save(path, exif=data)
    turned = name in EXIF or suffix == "avif"
    assert to_rgb(path).size == ((40, 48) if turned else (48, 40))


def test_formats_that_are_programs_are_not_opened(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels()).save(path, "EPS")
    assert path.read_bytes().startswith(b"%!PS")
    with pytest.raises(ImageError, match=r"photo\.jpg: it is not an image"):
        to_rgb(path)


def test_large_images_are_read_without_a_warning_and_larger_ones_refused(
    tmp_path, monkeypatch, recwarn
):
    path = tmp_path / "a.png"
    Image.fromarray(pixels(200, 200, 3)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)  # Pillow warns of what has more
    assert to_rgb(path).size == (200, 200)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # and refuses this
    assert to_rgb(path).size == (200, 200)
    assert Image.MAX_IMAGE_PIXELS == 10_000
    assert not recwarn
    header = bytearray(path.read_bytes())
    header[16:24] = struct.pack(">II", 2**20, 2**20)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    path.write_bytes(header)
    with pytest.raises(ImageError, match=r"a\.png: it has 1,048,576 x 1,048,576 pixels, more than"):
        to_rgb(path)


def logo(mode="RGBA"):
    """A ring drawn in the alpha channel alone."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    ring = np.uint8(255) * (np.abs(np.hypot(x, y) - 0.6) < 0.2)
    image = Image.fromarray(np.dstack([np.zeros((32, 32, 3), np.uint8), ring]))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_behind_transparency_is_a_choice(mode, tmp_path):
    path = tmp_path / "logo.png"
    (logo(mode) if mode != "PA" else logo("LA").convert("PA")).save(tmp_path / "logo.tif")
    logo(mode if mode != "PA" else "LA").save(path)
    white = np.asarray(to_rgb(path, alpha="white"))
    assert np.array_equal(white[..., 0], 255 - np.asarray(logo())[..., 3])
    assert np.array_equal(to_rgb(path, alpha="#808080"), np.minimum(white, 128))
    if mode == "RGBA":
        assert np.array_equal(to_rgb(np.asarray(logo()), alpha="white"), white)
        palette = logo().quantize(4)
        palette.save(path)
        assert np.asarray(to_rgb(path, alpha="white"))[0, 0].tolist() == [255, 255, 255]
    for alpha in ("whit", "", "drop "):
        with pytest.raises(ValueError, match="expected 'drop', or a colour"):
            image_io.check_alpha(alpha)


def test_pictures_that_are_lost_with_their_transparency_are_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_errors, "_said", set())
    logo().save(tmp_path / "logo.png")
    with pytest.warns(UserWarning, match=r"logo\.png is drawn in its transparency alone") as said:
        assert not np.asarray(to_rgb(tmp_path / "logo.png")).any()
    assert len(said) == 1
    to_rgb(tmp_path / "logo.png")  # a second warning would be an error
    monkeypatch.setattr(sample_errors, "_said", set())
    Image.new("RGBA", (4, 4)).save(tmp_path / "empty.png")
    to_rgb(tmp_path / "empty.png")  # nothing was there: no warning


def test_odd_images_are_read(tmp_path):
    frames = [Image.fromarray(pixels(20, 30, 3) // (i + 1)) for i in range(3)]
    for suffix in ("gif", "webp", "tif", "png"):
        path = tmp_path / f"frames.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        first = np.asarray(to_rgb(path)).astype(int)
        assert np.abs(first - np.asarray(frames[0])).mean() < (20 if suffix == "gif" else 1)
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ImageError, match=r"nan\.tif: float images have values in 0..1"):
        to_rgb(tmp_path / "nan.tif")
    odd = tmp_path / os.fsdecode(b"caf\xe9.png")
    frames[0].save(odd)
    assert to_rgb(odd).size == (30, 20)
    for path in (tmp_path / f"{'x' * 300}.png", "a\0b.png"):
        with pytest.raises(ImageError, match="no such file"):
            to_rgb(path)


CASES = ROOT.parent / "shared/cases/images"


@pytest.mark.filterwarnings("ignore:Truncated|Corrupt|Tag data")
@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_all_images_of_the_reports_are_read_and_turned():
    for path in CASES.iterdir():
        if path.suffix == ".jpg":
            turned = path.name.startswith(("turned", "ascii_orientation"))
            assert to_rgb(path).size == ((40, 48) if turned else (48, 40)), path
        else:
            to_rgb(path)
