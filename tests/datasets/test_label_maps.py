import numpy as np
import pytest
from PIL import Image

from mmonepeace.datasets.label_maps import find_label_maps, read_label_map
from mmonepeace.datasets.sample_errors import LabelError, MissingError


@pytest.fixture
def path(tmp_path):
    labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_labels_are_classes_as_they_are(path):
    np.testing.assert_array_equal(read_label_map(path, (2, 3), 3), [[0, 1, 2], [255, 2, 1]])


def test_with_label_zero_ignored_the_first_class_is_one(path):
    reduced = read_label_map(path, (2, 3), 2, reduce_zero_label=True)
    np.testing.assert_array_equal(reduced, [[255, 0, 1], [255, 1, 0]])


def test_a_palette_only_says_how_labels_look(path):
    image = Image.open(path)
    image.putpalette(range(60))
    image.save(path)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(read_label_map(path, (2, 3), 3), [[0, 1, 2], [255, 2, 1]])


@pytest.mark.parametrize(
    ("size", "classes", "reduced", "words"),
    [
        ((2, 3), 2, False, "has label 2, but 2 classes are named: labels 0 to 1"),
        ((2, 3), 1, True, "has label 2, but 1 classes are named: labels 1 to 1, 0 is ignored"),
        ((3, 3), 3, False, "is 3 x 2 pixels, its image 3 x 3"),
    ],
)
def test_labels_that_do_not_fit_are_named(path, size, classes, reduced, words):
    with pytest.raises(LabelError, match=words):
        read_label_map(path, size, classes, reduced)


def test_colours_are_no_labels(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(LabelError, match="mode RGB; expected one channel"):
        read_label_map(tmp_path / "a.png", (2, 3), 3)


def test_the_label_map_has_the_place_and_name_of_its_image(path, tmp_path):
    images = tmp_path / "images"
    assert find_label_maps([images / "a.jpg"], tmp_path, images) == [path]
    with pytest.raises(MissingError, match=r"1 of 2 images have no label map, the first .*b\.jpg"):
        find_label_maps([images / "a.jpg", images / "deep/b.jpg"], tmp_path, images)
