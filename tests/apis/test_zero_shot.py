import numpy as np
import pytest

from mmonepeace.apis import ZeroShotClassifier

CLASSES = ["dog", "cat", "red chair"]


def test_probabilities_are_a_softmax_of_scaled_cosines(embedder, data):
    images = [data / "images/a.png", data / "images/b.jpg"]
    classifier = ZeroShotClassifier(embedder, CLASSES, templates=["a {}"])
    texts = embedder.encode_text([f"a {name}" for name in CLASSES])
    logits = embedder.model.scale().item() * embedder.encode_image(images) @ texts.T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(classifier.predict(images), expected, atol=1e-5)


def test_a_class_is_the_mean_of_its_templates(embedder):
    templates = ["{} here", "the {} and the {}"]
    classifier = ZeroShotClassifier(embedder, CLASSES, "audio", templates)
    texts = ["red chair here", "the red chair and the red chair"]
    mean = embedder.encode_text(texts).mean(0)
    np.testing.assert_allclose(
        classifier.class_embeddings[2], mean / np.linalg.norm(mean), atol=1e-5
    )


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_the_order_of_classes_is_that_of_the_columns(embedder, data, modality):
    item = data / {"image": "images/a.png", "audio": "audios/x.wav"}[modality]
    forth = ZeroShotClassifier(embedder, CLASSES, modality).predict([item])
    back = ZeroShotClassifier(embedder, CLASSES[::-1], modality).predict([item])
    np.testing.assert_allclose(forth, back[:, ::-1], atol=1e-5)


def test_what_cannot_be_read_is_nan(embedder, data):
    errors = {}
    paths = [data / "images/a.png", data / "images/broken.png"]
    found = ZeroShotClassifier(embedder, CLASSES).predict(paths, errors)
    assert "broken.png" in errors[1]
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"classes": []}, ValueError, "0 classes"),
        (
            {"classes": ["dog"]},
            ValueError,
            "'dog' is the only class, so its probability is always 1",
        ),
        ({"classes": ["dog", "dog"]}, ValueError, r"\['dog'\] occur twice"),
        ({"classes": CLASSES, "templates": ["a photo"]}, ValueError, r"\['a photo'\] lack {}"),
        ({"classes": CLASSES, "modality": "text"}, ValueError, "modality is 'text'; choose"),
        ({"classes": "dog"}, TypeError, "lists of strings"),
    ],
)
def test_mistakes_are_named(embedder, options, error, words):
    with pytest.raises(error, match=words):
        ZeroShotClassifier(embedder, **options)
