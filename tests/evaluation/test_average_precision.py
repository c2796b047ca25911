import warnings

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from sklearn.metrics import average_precision_score

from mmonepeace.evaluation import MeanAveragePrecision
from mmonepeace.evaluation.average_precision import average_precision
from tests.evaluation.samples import element, measure


def samples_of(scores, labels):
    return [
        element(pred_score=torch.as_tensor(s), gt_score=torch.as_tensor(y))
        for s, y in zip(scores, labels, strict=True)
    ]


def plain_average_precision(scores, labels):
    """By the definition: over the different scores, from the highest."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [y for s, y in zip(scores, labels, strict=True) if s >= threshold]
        recall = sum(taken) / sum(labels)
        total += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    return total


@pytest.fixture
def logged(monkeypatch):
    lines = []
    logger = MMLogger.get_instance("average precision")
    monkeypatch.setattr(logger, "log", lambda level, message: lines.append(message))
    yield lines
    MMLogger._instance_dict.pop("average precision")


def test_average_precision_by_hand():
    scores = torch.tensor([5.0, 4, 3, 2, 1])
    labels = torch.tensor([1, 0, 1, 0, 1]).bool()
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    tied = torch.tensor([5.0, 3, 3, 3, 1])  # the tie has one of two positives of the first four
    assert average_precision(tied, labels) == pytest.approx((1 + 2 / 4 + 3 / 5) / 3)
    assert average_precision(torch.zeros(5), labels) == pytest.approx(3 / 5)


@pytest.mark.parametrize("case", range(40))
def test_it_equals_scikit_learn_and_the_definition(case):
    rng = np.random.default_rng(case)
    number = rng.integers(2, 60)
    scores = rng.normal(size=number) * 10
    if case % 2:
        scores = scores.round(-1 if case % 4 == 1 else 0)  # with ties, many or few
    scores = scores.astype(np.float32)
    labels = rng.random(number) < rng.uniform(0.05, 0.9)
    labels[rng.integers(number)] = True
    got = average_precision(torch.tensor(scores), torch.tensor(labels))
    assert got == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert got == pytest.approx(
        plain_average_precision(scores.tolist(), labels.tolist()), abs=1e-12
    )
    order = rng.permutation(number)
    assert average_precision(torch.tensor(scores[order]), torch.tensor(labels[order])) == got


def test_the_metric_is_the_mean_over_classes():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(80, 6)).round(1).astype(np.float32)
    labels = (rng.random((80, 6)) < 0.2).astype(np.float32)
    got = measure(
        dict(type="mmonepeace.MeanAveragePrecision"), samples_of(scores, labels), "abcdef"
    )
    assert got["mAP"] == pytest.approx(100 * average_precision_score(labels, scores))
    assert got["mAP_chance"] == pytest.approx(100 * labels.mean())


def test_a_random_order_is_near_chance_and_equal_scores_are_at_chance():
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 3)) < (0.1, 0.3, 0.5)).astype(np.float32)
    scores = rng.normal(size=labels.shape)
    got = measure(MeanAveragePrecision(), samples_of(scores, labels), "abc", 500)
    assert got["mAP"] == pytest.approx(got["mAP_chance"], abs=1.5)
    got = measure(MeanAveragePrecision(), samples_of(0 * scores, labels), "abc", 500)
    assert got["mAP"] == pytest.approx(got["mAP_chance"])


def test_logits_are_ranked_where_their_sigmoids_tie():
    scores = torch.tensor([[18.0], [17.5], [19.0]])
    labels = torch.tensor([[0.0], [0.0], [1.0]])
    assert measure(MeanAveragePrecision(), samples_of(scores, labels), "a")["mAP"] == 100
    of_sigmoids = measure(MeanAveragePrecision(), samples_of(scores.sigmoid(), labels), "a")
    assert of_sigmoids["mAP"] < 100


def test_classes_without_positives_follow_one_rule_and_are_logged(logged):
    scores = np.float32([[2, 1, 0], [1, 2, 0], [0, 0, 0]])
    labels = np.float32([[1, 0, 0], [0, 0, 0], [1, 0, 0]])
    first = (1 + 2 / 3) / 2  # of class a; b and c are empty
    got = measure(MeanAveragePrecision(), samples_of(scores, labels), "abc")
    assert got == {"mAP": pytest.approx(100 * first), "mAP_chance": pytest.approx(200 / 3)}
    assert logged.pop() == (
        "2 of 3 classes have no positives and are left out of mAP (scikit-learn counts 0: "
        "empty_classes='zero'): b, c"
    )
    got = measure(MeanAveragePrecision("zero"), samples_of(scores, labels), "abc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about the empty classes
        expected = average_precision_score(labels, scores)
    assert got == {"mAP": pytest.approx(100 * expected), "mAP_chance": pytest.approx(200 / 9)}
    assert logged.pop().endswith("counted as 0 in mAP: b, c")
    assert measure(MeanAveragePrecision(), samples_of(scores[:, :1], labels[:, :1]), "a")
    assert logged == []


@pytest.mark.parametrize("rule", ["leave_out", "zero"])
def test_without_any_positive_there_is_no_mean(rule):
    got = measure(MeanAveragePrecision(rule), samples_of(np.ones((2, 2)), np.zeros((2, 2))), "ab")
    assert np.isnan(list(got.values())).all()


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (element(pred_score=torch.tensor([1, torch.nan])), "pred_score has NaN at 1 of 2"),
        (element(pred_score=torch.ones(2)), "a data sample has no gt_score"),
        (
            element(pred_score=torch.ones(2), gt_score=torch.tensor([1, 0.3])),
            "gt_score has 0.3; expected 0 and 1.*VQAAccuracy",
        ),
        (
            element(pred_score=torch.ones(2), gt_score=torch.ones(3)),
            r"gt_score has the shape \(3,\); expected \(2,\)",
        ),
        (element(pred_score=torch.ones(3), gt_score=torch.ones(3)), "metainfo .* has 2 classes"),
    ],
)
def test_bad_samples_are_named(sample, words):
    with pytest.raises(ValueError, match=words):
        measure(MeanAveragePrecision(), [sample], "ab")


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="empty_classes is 'skip'; choose from leave_out, zero"):
        MeanAveragePrecision("skip")
