import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace.apis import ZeroShotSegmentor
from mmonepeace.apis.zero_shot_segmentation import CLS, DENSE

CLASSES = ["dog", "cat", "red chair"]


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))


def agreement(a, b):
    return (a == b).mean()


def test_patches_that_are_their_class_are_segmented_without_error(embedder, tmp_path, monkeypatch):
    """Where a patch's embedding is that of the class it shows, mIoU is 100 %, and CLS cannot have it."""
    segmentor = ZeroShotSegmentor(embedder, CLASSES)
    grid = torch.tensor([[1, 1, 0, 2]] * 4)  # no corners, where interpolation would round them

    def embed_patches(images, values):
        assert images.shape == (1, 3, 64, 64)
        names = segmentor.name_embeddings
        return names[:1], names[grid][None]

    monkeypatch.setattr(embedder.model, "embed_patches", embed_patches)
    labels = grid.repeat_interleave(16, 0).repeat_interleave(16, 1).numpy().astype(np.uint8)
    images, label_maps = [tmp_path / "image.png"], [tmp_path / "labels.png"]
    Image.new("RGB", (64, 64)).save(images[0])
    Image.fromarray(labels).save(label_maps[0])
    found = segmentor.evaluate(images, label_maps)
    assert found.mean_iou(DENSE) == 1
    assert found.mean_iou(CLS) == pytest.approx(0.25 / 3)  # all of it the first class
    assert found.constant == ("cat", pytest.approx(0.5 / 3))


def test_the_order_of_classes_permutes_labels(embedder, image):
    forth = ZeroShotSegmentor(embedder, CLASSES).predict(image)
    back = ZeroShotSegmentor(embedder, CLASSES[::-1]).predict(image)
    for name, labels in forth.items():
        assert labels.shape == (64, 96)
        assert agreement(labels, 2 - back[name]) > 0.999
    assert len(np.unique(forth[DENSE])) > 1
    assert len(np.unique(forth[CLS])) == 1


@pytest.mark.parametrize("values", [False, True])
def test_a_window_as_large_as_the_image_is_none(embedder, image, values):
    options = dict(values=values, short_side=64)
    whole = ZeroShotSegmentor(embedder, CLASSES, **options).predict(image)
    window = ZeroShotSegmentor(embedder, CLASSES, window=96, **options).predict(image)
    small = ZeroShotSegmentor(embedder, CLASSES, window=32, **options).predict(image)
    np.testing.assert_array_equal(whole[DENSE], window[DENSE])
    assert agreement(whole[DENSE], small[DENSE]) < 0.999


def test_of_several_names_the_most_similar_one_counts(embedder, image):
    single = ZeroShotSegmentor(embedder, [*CLASSES, "rain"]).predict(image)
    joined = ZeroShotSegmentor(embedder, [("dog", "rain"), "cat", "red chair"]).predict(image)
    expected = np.where(single[DENSE] == 3, 0, single[DENSE])
    # Between patches, the maximum of interpolated cosines is not that of the patches.
    assert agreement(joined[DENSE], expected) > 0.9


def test_labels_are_those_of_heat_maps(embedder, image):
    """One home for what a patch is like: the highest of the heat maps is the label."""
    segmentor = ZeroShotSegmentor(embedder, CLASSES)
    maps = embedder.heat_maps(image, segmentor.name_embeddings.numpy())
    assert agreement(segmentor.predict(image)[DENSE], maps.argmax(0)) > 0.9


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"classes": "dog"}, TypeError, "classes are a list"),
        ({"classes": ["dog", ()]}, ValueError, "class 1 has no name"),
        ({"classes": ["dog", ("cat", "dog")]}, ValueError, r"\['dog'\] occur twice"),
        ({"classes": CLASSES, "window": 0}, ValueError, "window is 0"),
        (
            {"classes": CLASSES, "window": 32, "stride": 48},
            ValueError,
            "stride is 48, the window 32",
        ),
        ({"classes": CLASSES, "stride": 48}, ValueError, "stride is 48, the window None"),
    ],
)
def test_mistakes_are_named(embedder, options, error, words):
    with pytest.raises(error, match=words):
        ZeroShotSegmentor(embedder, **options)
