import numpy as np
import pytest

from mmonepeace.evaluation import evaluate


def test_evaluation_counts():
    classes = list("abcdef")
    p = np.zeros((5, 6))
    p[0, 0] = p[1, 0] = 1  # two of a: right
    p[2] = [0.5, 0.3, 0.1, 0.05, 0.04, 0.01]  # f taken for a, f is sixth
    p[3] = [0.3, 0.5, 0.1, 0.05, 0.04, 0.01]  # a taken for b
    p[4] = [0.3, 0.5, 0.1, 0.05, 0.04, 0.01]
    found = evaluate(p, list("aafaa"), classes)
    assert found.top1 == pytest.approx(2 / 5)
    assert found.top5 == pytest.approx(4 / 5)
    assert found.mean == pytest.approx((2 / 4 + 0) / 2)
    assert (found.chance, found.majority) == (pytest.approx(1 / 6), pytest.approx(4 / 5))
    assert found.classes == {"a": (2, 4), "f": (0, 1)}
    assert found.confusions == [("a", "b", 2), ("f", "a", 1)]
    lines = found.report().splitlines()
    assert lines[0] == "top-1 40.00%, top-5 80.00%, mean over classes 25.00%"
    assert lines[4].split() == ["f", "0.0%", "0", "1"]  # the worst class first


def test_five_classes_have_no_top_5():
    assert evaluate(np.eye(5), list("abcde"), list("abcde")).top5 is None


def test_a_label_that_is_not_a_class_is_named():
    with pytest.raises(ValueError, match="labels that are not classes: bird"):
        evaluate(np.eye(3), ["dog", "cat", "bird"], ["dog", "cat", "red chair"])
