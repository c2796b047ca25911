import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from mmonepeace.evaluation import Accuracy, evaluate
from tests.evaluation.samples import element, measure


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


def labelled(*pairs):
    return [element(pred_score=torch.tensor(scores), gt_label=label) for scores, label in pairs]


def test_accuracy_by_hand():
    samples = labelled(
        ([0.1, 0.7, 0.2], 1),  # first
        ([0.1, 0.7, 0.2], 2),  # second
        ([0.1, 0.7, 0.2], 0),  # third
        ([-5.0, -9.0, -7.0], 0),  # first
    )
    got = measure(dict(type="mmonepeace.Accuracy", topk=(1, 2, 3)), samples)
    assert got == {
        "top1": 50,
        "top1_chance": pytest.approx(100 / 3),
        "top2": 75,
        "top2_chance": pytest.approx(200 / 3),
        "top3": 100,
        "top3_chance": 100,
    }


def test_of_equal_scores_the_first_class_is_predicted():
    score = [1.0, 3.0, 3.0, 3.0]
    got = [measure(Accuracy(), labelled((score, label)))["top1"] for label in range(4)]
    assert got == [0, 100, 0, 0]
    assert measure(Accuracy(topk=(2,)), labelled((score, 2)))["top2"] == 100


def test_accuracy_equals_scikit_learn_and_a_sort():
    rng = np.random.default_rng(0)
    scores = rng.integers(-4, 4, (300, 7)).astype(np.float32)  # with ties
    labels = rng.integers(7, size=300)
    samples = labelled(*zip(scores, labels.tolist(), strict=True))
    got = measure(Accuracy(topk=(1, 3)), samples)
    assert got["top1"] == pytest.approx(100 * accuracy_score(labels, scores.argmax(1)))
    first = [sorted(range(7), key=lambda c, row=row: (-row[c], c))[:3] for row in scores]
    hits = [label in best for label, best in zip(labels, first, strict=True)]
    assert got["top3"] == pytest.approx(100 * np.mean(hits))
    table = np.exp(scores)
    classes = list("abcdefg")
    report = evaluate(table, [classes[label] for label in labels], classes)
    assert got["top1"] == pytest.approx(100 * report.top1)


def test_candidates_may_differ_in_number():
    got = measure(Accuracy(topk=(1, 3)), labelled(([1.0, 0.0], 0), ([1.0, 0.0, 2.0, 3.0], 1)))
    assert got["top1_chance"] == pytest.approx((100 / 2 + 100 / 4) / 2)
    assert got["top3_chance"] == pytest.approx((100 + 75) / 2)
    assert (got["top1"], got["top3"]) == (50, 50)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_scores_is_named(label):
    with pytest.raises(ValueError, match=rf"gt_label is {label}, .*3 classes, 0 to 2.*num_classes"):
        measure(Accuracy(), labelled(([1.0, 2.0, 3.0], label)))
