import json

import pytest
import torch
from mmengine.logging import MMLogger

from mmonepeace.evaluation import VQAAccuracy
from tests.evaluation.samples import element, measure

CLASSES = ["yes", "no", "2", "red"]
TEN = ["yes"] * 2 + ["no"] * 3 + ["two"] * 4 + ["blue"]


def question(score, **fields):
    return element(pred_score=torch.tensor(score), **fields)


def test_confidence_of_the_answer_and_true_accuracy():
    confidences = torch.tensor([0.6, 0.9, 1.0, 0.0])
    scores = [[3.0, 1, 0, 0], [0.0, 1, 0, 0], [0.0, 1, 5, 0], [0.0, 1, 0, 5]]
    samples = [question(score, gt_score=confidences, answers=TEN) for score in scores]
    got = measure(dict(type="mmonepeace.VQAAccuracy"), samples, CLASSES)
    assert got == {
        "confidence": pytest.approx(100 * (0.6 + 0.9 + 1 + 0) / 4),
        "accuracy": pytest.approx(100 * (0.6 + 0.9 + 1 + 0) / 4),
    }
    only = [question(score, gt_score=confidences) for score in scores]
    assert measure(VQAAccuracy(), only, CLASSES) == {"confidence": got["confidence"]}
    only = [question(score, answers=TEN) for score in scores]
    assert measure(VQAAccuracy(), only, CLASSES) == {"accuracy": got["accuracy"]}


def test_the_two_differ_where_an_answer_is_not_a_class():
    """Confidences know classes only: what people say beside them counts in the accuracy alone."""
    sample = question([0.0, 0, 0, 9], gt_score=torch.zeros(4), answers=["Red."] * 10)
    assert measure(VQAAccuracy(), [sample], CLASSES) == {"confidence": 0, "accuracy": 100}


def test_of_equal_scores_the_first_answer_is_given():
    sample = question([0.0, 2, 2, 2], gt_score=torch.tensor([0, 0.3, 0.6, 1]))
    assert measure(VQAAccuracy(), [sample], CLASSES)["confidence"] == pytest.approx(30)


def test_confidences_equal_a_plain_loop():
    torch.manual_seed(0)
    score_NC, truth_NC = torch.randn(50, 4), torch.rand(50, 4)
    samples = [question(s.tolist(), gt_score=t) for s, t in zip(score_NC, truth_NC, strict=True)]
    expected = [
        t[max(range(4), key=s.__getitem__)]
        for s, t in zip(score_NC.tolist(), truth_NC.tolist(), strict=True)
    ]
    got = measure(VQAAccuracy(), samples, CLASSES)["confidence"]
    assert got == pytest.approx(100 * sum(expected) / 50)


def test_predictions_for_the_test_server_are_written(tmp_path):
    path = tmp_path / "new/answers.json"
    samples = [question([0.0, 0, i, 1.5], question_id=10 + i) for i in range(4)]
    samples[3] = question([0.0, 9, 0, 0], question_id="13")
    assert measure(VQAAccuracy(out_file=str(path)), samples, CLASSES) == {}
    assert json.loads(path.read_text()) == [
        {"question_id": 10, "answer": "red"},
        {"question_id": 11, "answer": "red"},
        {"question_id": 12, "answer": "2"},
        {"question_id": 13, "answer": "no"},
    ]
    assert [p.name for p in path.parent.iterdir()] == ["answers.json"]


def test_questions_without_a_prediction_are_counted(tmp_path, monkeypatch):
    lines = []
    logger = MMLogger.get_instance("vqa")
    monkeypatch.setattr(logger, "log", lambda level, message: lines.append(message))
    metric = VQAAccuracy(out_file=str(tmp_path / "a.json"))
    metric.dataset_meta = {"classes": CLASSES}
    metric.process(None, [question([0.0, 0, 0, 1], question_id=i) for i in range(3)])
    metric.size = 5
    metric.compute_metrics(metric.results)
    MMLogger._instance_dict.pop("vqa")
    assert "3 answers are in" in lines[0]
    assert "2 of 5 questions have none" in lines[0]


def test_an_older_file_stays_when_ids_are_repeated(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text("[]")
    samples = [question([0.0, 0, 0, 1], question_id=i) for i in (4, 7, 4, 4, 7)]
    with pytest.raises(
        ValueError, match=r"question_id 4 is repeated, as 2 of 2 are; .*not written"
    ):
        measure(VQAAccuracy(out_file=str(path)), samples, CLASSES)
    assert path.read_text() == "[]"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(question_id=1), "neither gt_score nor answers.*out_file of VQAAccuracy"),
        (dict(gt_score=torch.ones(3)), r"gt_score has the shape \(3,\); expected \(4,\)"),
        (dict(gt_score=torch.tensor([0, 0, 0, 1.3])), "gt_score has 1.3; expected confidences"),
        (dict(gt_score=torch.tensor([0, 0, 0, torch.nan])), "gt_score has nan; expected"),
        (dict(answers=["yes"] * 9), "answers has 9; expected those of 10 people"),
        (dict(answers="yes"), "answers is 'yes'; expected those of 10 people"),
        (dict(answers=[1] * 10), r"answers is \[1, .*list of strings"),
    ],
)
def test_bad_fields_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        measure(VQAAccuracy(), [question([0.0, 0, 0, 1], **fields)], CLASSES)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({}, "a data sample has no question_id"), ({"question_id": "a"}, "question_id is 'a'")],
)
def test_the_file_needs_question_ids(fields, words, tmp_path):
    metric = VQAAccuracy(out_file=str(tmp_path / "a.json"))
    with pytest.raises(ValueError, match=words):
        measure(metric, [question([0.0, 0, 0, 1], **fields)], CLASSES)


def test_fields_that_only_some_samples_have_are_named():
    good = question([0.0, 0, 0, 1], answers=TEN, gt_score=torch.zeros(4))
    with pytest.raises(ValueError, match="answers is missing in 1 of 3 data samples"):
        measure(
            VQAAccuracy(), [good, question([0.0, 0, 0, 1], gt_score=torch.zeros(4)), good], CLASSES
        )


def test_the_classes_must_be_known():
    with pytest.raises(
        ValueError, match=r"pred_score has 4 classes, .* has no classes.*classes.txt"
    ):
        measure(VQAAccuracy(), [question([0.0, 0, 0, 1], answers=TEN)])


@pytest.mark.parametrize("name", ["answers.txt", "answers"])
def test_the_file_is_json(name):
    with pytest.raises(ValueError, match=f"out_file is '{name}'; expected .*json"):
        VQAAccuracy(out_file=name)
