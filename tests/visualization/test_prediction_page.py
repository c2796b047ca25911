import numpy as np
import pytest
from PIL import Image

from mmonepeace.apis.predictor import Prediction
from mmonepeace.visualization.prediction_page import (
    Answered,
    draw_predictions,
    with_box,
    write_predictions,
)


@pytest.fixture
def noise(tmp_path):
    """Saves noise of a size (width, height), which compresses worst."""

    def save(*size):
        path = tmp_path / f"{size[0]}x{size[1]}.png"
        pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return str(path)

    return save


@pytest.mark.parametrize("size", [(90, 200), (300, 300), (900, 1), (1, 1)])
def test_any_image_gets_a_card(size, noise, tmp_path):
    items = [Answered({"image": noise(*size), "text": "x"}, box=(0, 0, *size))]
    write_predictions(tmp_path / "page.html", items)
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 1
    assert draw_predictions(items).to_array().std() > 0


def test_enlarging_for_a_box_has_a_limit():
    assert with_box(Image.new("RGB", (60, 30)), (10, 10, 20, 20)).size == (480, 240)
    assert with_box(Image.new("RGB", (5000, 1)), (0, 0, 9, 1)).size == (5000, 1)


def test_a_box_is_drawn_whichever_corner_comes_first():
    black = Image.new("RGB", (240, 240))
    drawn = with_box(black, (200, 180, 40, 60))
    assert np.array_equal(drawn, with_box(black, (40, 60, 200, 180)))
    assert drawn.getpixel((40, 100)) == (255, 64, 64)


def test_texts_below_a_picture_are_plain_and_short(noise):
    path = noise(60, 40)
    said = [Prediction("word " * 50, 0.5)]
    asked = Answered({"image": path, "text": r"costs $\foo$ " + "word " * 300}, said)
    grid = draw_predictions([asked] * 2)
    pixels = grid.to_array()
    assert pixels.shape[:2] == (341, 572)  # two tiles
    lines = grid.tiles[0, 0].get_title().split("\n")
    assert len(lines) == 4
    assert lines[0].startswith(r"costs $\foo$ word")
    assert lines[-1].endswith("...  0.50")
    assert (pixels[:200].std(axis=2) > 0).any()  # the image has not given way to the text
