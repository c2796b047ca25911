import numpy as np
import pytest
from PIL import Image

from mmonepeace.apis import evaluate
from mmonepeace.visualization.confusion_matrix import confusion_matrix, draw_confusions


def test_rows_are_the_true_classes():
    classes = ["a", "b", "c"]
    evaluation = evaluate(np.eye(3)[[0, 1, 1, 1]], ["a", "a", "a", "b"], classes)
    expected = [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_array_equal(confusion_matrix(evaluation, classes), expected)


@pytest.mark.parametrize("number", [2, 31, 121])
def test_any_number_of_classes_is_drawn(tmp_path, number):
    classes = [f"class ${i} with a very long name" for i in range(number)]
    labels = np.random.default_rng(0).integers(0, number, 60)
    evaluation = evaluate(np.eye(number)[labels], [classes[i] for i in labels], classes)
    path = tmp_path / "new/confusions.png"
    draw_confusions(path, [("one", evaluation), ("the same", evaluation)], classes)
    image = np.asarray(Image.open(path).convert("L"))
    assert image.shape[1] > image.shape[0] > 300
    assert (image[[0, -1]] == 255).all()  # nothing is cut off
    assert (image[:, [0, -1]] == 255).all()
