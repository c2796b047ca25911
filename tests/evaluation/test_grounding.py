import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from mmonepeace.evaluation import GroundingAccuracy
from mmonepeace.evaluation.grounding import box_iou
from tests.evaluation.samples import element, measure

TRUTH = (10.0, 20, 110, 220)


def boxes(*pairs, **fields):
    return [
        element(pred_box=torch.tensor(box), gt_box=torch.tensor(truth), **fields)
        for box, truth in pairs
    ]


def plain_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_accuracy_by_hand():
    got = measure(
        dict(type="mmonepeace.GroundingAccuracy"),
        boxes(
            (TRUTH, TRUTH),  # 1
            ((10.0, 20, 60, 220), TRUTH),  # exactly 1/2 is enough
            ((10.0, 20, 59, 220), TRUTH),  # 0.49
            ((110.0, 20, 210, 220), TRUTH),  # touches: no intersection
        ),
    )
    assert got == {
        "accuracy@0.5": 50,
        "mean_iou": pytest.approx(100 * (1 + 0.5 + 0.49 + 0) / 4),
    }


@pytest.mark.parametrize(
    "box",
    [
        (110.0, 220, 10, 20),  # both sides inverted: the product of the sides is positive
        (110.0, 20, 10, 220),
        (50.0, 60, 50, 60),  # a point
        (10.0, 20, 10, 220),  # a line
        (500.0, 500, 400, 400),
        (-1e30, -1e30, 1e30, 1e30),
    ],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_an_empty_or_inverted_prediction_is_wrong(box, bf16):
    got = measure(GroundingAccuracy(official_bf16=bf16), boxes((box, TRUTH)))
    assert got == {"accuracy@0.5": 0, "mean_iou": 0}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_prediction_that_is_not_finite_is_wrong_and_counted(value, bf16, monkeypatch):
    lines = []
    logger = MMLogger.get_instance("grounding")
    monkeypatch.setattr(logger, "log", lambda level, message: lines.append(message))
    samples = boxes(*[((10.0, 20, 110, 220), TRUTH)] * 3, ((10.0, 20, value, 220), TRUTH))
    got = measure(GroundingAccuracy(official_bf16=bf16), samples)
    MMLogger._instance_dict.pop("grounding")
    assert got == {"accuracy@0.5": 75, "mean_iou": 75, "not_finite": 1}
    assert lines[0].startswith("1 of 4 predicted boxes have NaN or infinity and count as wrong")


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_random_boxes_equal_a_plain_loop(threshold):
    rng = np.random.default_rng(0)
    truths = np.sort(rng.uniform(0, 640, (400, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    predictions = (truths + rng.normal(0, 25, truths.shape)).astype(np.float32)
    pairs = list(zip(predictions.tolist(), truths.tolist(), strict=True))
    ious = np.array([plain_iou(*pair) for pair in pairs])
    assert 100 < (ious >= threshold).sum() < 380
    got = measure(GroundingAccuracy(threshold), boxes(*pairs))
    assert got[f"accuracy@{threshold:g}"] == pytest.approx(100 * (ious >= threshold).mean())
    assert got["mean_iou"] == pytest.approx(100 * ious.mean(), rel=1e-6)


def official(pair, sides, ratio):
    """The official evaluation, which has all numbers in bfloat16: `sides` are those of a prediction."""
    ratio = torch.tensor(ratio, dtype=torch.bfloat16)
    box = (torch.tensor(pair[0]) * sides).bfloat16() / ratio
    truth = torch.tensor(pair[1]).bfloat16()
    x0, y0 = torch.maximum(box[0], truth[0]), torch.maximum(box[1], truth[1])
    x1, y1 = torch.minimum(box[2], truth[2]), torch.minimum(box[3], truth[3])
    intersection = (x1 - x0) * (y1 - y0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    true_area = (truth[2] - truth[0]) * (truth[3] - truth[1])
    iou = intersection.float() / (area + true_area - intersection)
    return bool((iou >= 0.5) & (x1 > x0) & (y1 > y0)), iou.item()


def test_the_official_rounding_equals_the_official_computation():
    rng = np.random.default_rng(1)
    scale = (384 / 640, 384 / 427)
    truths = np.sort(rng.uniform(0, 427, (600, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
    predictions = (truths + rng.normal(0, 40, truths.shape)).astype(np.float32)
    pairs = list(zip(predictions.tolist(), truths.tolist(), strict=True))
    pairs = [p for p in pairs if p[1][2] - p[1][0] > 8 and p[1][3] - p[1][1] > 8]
    for fields, ratio in (({}, [1.0] * 4), ({"scale_factor": scale}, [*scale, *scale])):
        samples = boxes(*pairs, **fields)
        expected = [official(pair, torch.tensor(ratio), ratio)[0] for pair in pairs]
        got = measure(GroundingAccuracy(official_bf16=True), samples)
        assert got["accuracy@0.5"] == pytest.approx(100 * np.mean(expected))
    exact = measure(GroundingAccuracy(), samples)
    assert 0 < abs(got["accuracy@0.5"] - exact["accuracy@0.5"]) < 3


def test_rounding_turns_a_decision_around():
    """Beyond 512 px the true corners are multiples of 4: 513 becomes 512, 607 becomes 608."""
    pair = (513.0, 0, 561, 100), (513.0, 0, 607, 100)
    assert box_iou(*map(torch.tensor, pair)) == pytest.approx(48 / 94)
    assert measure(GroundingAccuracy(), boxes(pair))["accuracy@0.5"] == 100
    narrower = (514.0, 0, 561, 100), pair[1]  # 47 / 94 in pixels; 560 - 512 of 608 - 512 rounded
    assert measure(GroundingAccuracy(), boxes(narrower))["mean_iou"] == 50
    rounded = measure(GroundingAccuracy(official_bf16=True), boxes(narrower))
    assert rounded["mean_iou"] == 50
    other = (516.0, 0, 562, 100), pair[1]  # 46 / 94 in pixels; (560 - 516) / 96 rounded
    assert measure(GroundingAccuracy(), boxes(other))["mean_iou"] == pytest.approx(100 * 46 / 94)
    rounded = measure(GroundingAccuracy(official_bf16=True), boxes(other))
    assert rounded["mean_iou"] == pytest.approx(100 * 44 / 96, rel=1e-2)


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ((10.0, 20, 10, 40), r"gt_box is \[10.0, 20.0, 10.0, 40.0\]; expected x0 < x1"),
        ((10.0, 40, 20, 20), "region_coord"),
        ((10.0, 20, torch.nan, 40), "gt_box is .*nan"),
        ((10.0, 20, 30), r"gt_box has the shape \(3,\); expected \(4,\)"),
    ],
)
def test_a_true_box_without_area_is_named(truth, words):
    with pytest.raises(ValueError, match=words):
        measure(GroundingAccuracy(), boxes((TRUTH, truth)))


@pytest.mark.parametrize("threshold", [0, 50, -1])
def test_thresholds_are_fractions(threshold):
    with pytest.raises(
        ValueError, match=f"iou_threshold is {threshold}; expected a number above 0"
    ):
        GroundingAccuracy(threshold)
