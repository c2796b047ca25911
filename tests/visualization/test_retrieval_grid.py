"""Galleries of retrieval, and the hook that draws them."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from matplotlib import colors
from mmengine.structures import BaseDataElement
from PIL import Image

from mmonepeace.evaluation import find_directions
from mmonepeace.visualization import RetrievalGalleryHook, draw_direction
from mmonepeace.visualization.retrieval_grid import PALE, RIGHT


@pytest.fixture
def files(tmp_path):
    """Eight images and audio clips; one of each is broken."""
    for i in range(8):
        Image.new("RGB", (30 + 10 * i, 40), (30 * i, 90, 200)).save(tmp_path / f"{i}.png")
        tone = np.sin(np.arange(3000 * (i + 1)) * 0.05 * (i + 1))
        soundfile.write(tmp_path / f"{i}.wav", tone, 16_000)
    (tmp_path / "7.png").write_bytes(b"not an image")
    (tmp_path / "7.wav").write_bytes(b"not audio")
    return tmp_path


def samples_of(files, turn=0):
    """Embeddings that find the item `turn` places further."""
    x = torch.eye(8)
    return [
        {
            "image": (str(files / f"{i}.png"), x[i]),
            "text": (f"{i} dogs cost $ {i} " * (5 * i + 1), x[(i + turn) % 8]),
            "audio": (str(files / f"{i}.wav"), x[i]),
        }
        for i in range(8)
    ]


def count(image, colour):
    """Pixels of a colour, or nearly."""
    rgb = np.array(colors.to_rgb(colour)) * 255
    return int((np.abs(image - rgb) < 8).all(-1).sum())


def test_every_direction_is_drawn_with_one_width(files):
    directions = find_directions(samples_of(files)[5:])
    images = [draw_direction(directions, which, 3, 2) for which in directions]
    assert len(images) == 6
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}
    assert len({image.shape for image in images}) == 1
    fewer = draw_direction(directions, ("text", "image"), 1, 2)
    assert fewer.shape[0] < images[0].shape[0]
    assert fewer.shape[1:] == images[0].shape[1:]


def test_right_items_have_green_frames_and_others_grey_ones(files):
    def frames(turn, k):
        directions = find_directions(samples_of(files, turn))
        image = draw_direction(directions, ("text", "image"), 3, k)
        return count(image, RIGHT), count(image, PALE)

    (green, grey), (no_green, more_grey) = frames(0, 1), frames(3, 1)
    assert green > 1000
    assert no_green == 0
    assert more_grey > grey + 500  # letters have such pixels too


def test_the_same_seed_draws_the_same_queries(files):
    directions = find_directions(samples_of(files))
    first, second = (draw_direction(directions, ("image", "text"), 3, 2) for _ in range(2))
    assert np.array_equal(first, second)
    other = draw_direction(directions, ("image", "text"), 3, 2, seed=1)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="no direction image_to_smell; choose from image_to_text"):
        draw_direction(directions, ("image", "smell"))


class Shown:
    """A visualizer that keeps what it gets."""

    def __init__(self):
        self.images = {}

    def add_image(self, name, image, step):
        self.images[name, step] = image


def validate(hook, runner, samples):
    hook.before_val_epoch(runner)
    for start in range(0, len(samples), 3):
        elements = []
        for sample in samples[start : start + 3]:
            element = BaseDataElement(
                metainfo=dict(img_path=sample["image"][0], text=sample["text"][0])
            )
            embeddings = {name: sample[name][1] for name in ("image", "text")}
            element.set_field(embeddings, "embeddings")
            elements.append(element)
        hook.after_val_iter(runner, start // 3, None, elements)
    hook.after_val_epoch(runner, {})


def test_a_validation_ends_with_an_image_of_each_direction(files):
    runner = SimpleNamespace(visualizer=Shown(), iter=6)
    hook = RetrievalGalleryHook(num_queries=2, num_results=2)
    validate(hook, runner, samples_of(files))
    names = [("retrieval_image_to_text", 6), ("retrieval_text_to_image", 6)]
    assert list(runner.visualizer.images) == names
    expected = draw_direction(find_directions(samples_of(files)), ("image", "text"), 2, 2)
    assert np.array_equal(runner.visualizer.images[names[0]], expected)
    assert hook.samples == []


def test_queries_are_those_of_the_rule(files):
    runner = SimpleNamespace(visualizer=Shown(), iter=1)
    samples = [dict(sample, text=("dogs", torch.ones(8) / 8**0.5)) for sample in samples_of(files)]
    directions = find_directions(samples, "official")
    assert len(directions["text", "image"].queries) == 8  # one text
    validate(RetrievalGalleryHook(num_queries=2, num_results=2, rule="official"), runner, samples)
    expected = draw_direction(directions, ("text", "image"), 2, 2)
    assert np.array_equal(runner.visualizer.images["retrieval_text_to_image", 1], expected)


def test_no_more_samples_are_kept_than_wanted(files):
    runner = SimpleNamespace(visualizer=Shown(), iter=1)
    hook = RetrievalGalleryHook(num_queries=2, num_results=2, max_samples=4)
    validate(hook, runner, samples_of(files))
    few = find_directions(samples_of(files)[:4])
    expected = draw_direction(few, ("image", "text"), 2, 2)
    assert np.array_equal(runner.visualizer.images["retrieval_image_to_text", 1], expected)


def test_items_without_files_are_written(files):
    x = F.normalize(torch.randn(4, 8), dim=-1)
    samples = [{"image": (f"key {i}", x[i]), "text": (f"{i}", x[i])} for i in range(4)]
    image = draw_direction(find_directions(samples), ("text", "image"), 2, 2)
    assert count(image, RIGHT) > 1000
