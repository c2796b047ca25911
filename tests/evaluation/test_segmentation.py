import json

import numpy as np
import pytest

from mmonepeace.evaluation.segmentation import (
    SegmentationEvaluation,
    confusion_matrix,
    intersection_over_union,
)

CLASSES = ("sky", "car", "dog", "boat")


@pytest.fixture
def labels():
    """Labels of the first three classes, half of them sky, and some that are ignored."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255], p=[0.5, 0.25, 0.15, 0.1], size=(200, 300))
    return labels.astype(np.uint8)


def evaluation(labels, predicted):
    return SegmentationEvaluation(
        CLASSES, {"patches": confusion_matrix(labels, predicted, len(CLASSES))}, 1
    )


def test_right_labels_have_an_iou_of_one_and_absent_classes_none(labels):
    confusion = confusion_matrix(labels, np.where(labels == 255, 3, labels), 4)
    np.testing.assert_array_equal(intersection_over_union(confusion), [1, 1, 1, np.nan])
    assert confusion.sum() == (labels != 255).sum()


def test_iou_is_intersection_over_union_of_pixels(labels):
    predicted = np.random.default_rng(1).integers(0, 4, labels.shape)
    ious = evaluation(labels, predicted).ious("patches")
    counted = labels != 255
    for i, iou in enumerate(ious):
        a, b = (labels == i) & counted, (predicted == i) & counted
        assert iou == pytest.approx((a & b).sum() / (a | b).sum())


def test_chance_is_what_random_labels_get(labels):
    predicted = np.random.default_rng(2).integers(0, 4, labels.shape)
    found = evaluation(labels, predicted)
    assert found.mean_iou("patches") == pytest.approx(found.chance, abs=0.003)


def test_the_constant_class_is_the_best_one(labels):
    means = [evaluation(labels, np.full(labels.shape, i)).mean_iou("patches") for i in range(3)]
    name, best = evaluation(labels, labels % 4).constant
    assert (name, best) == ("sky", pytest.approx(max(means)))


def test_results_are_written_as_a_table_or_json(labels, tmp_path):
    found = evaluation(labels, np.where(labels == 255, 0, labels))
    found.write(tmp_path / "ious.tsv", {})
    lines = [line.split("\t") for line in (tmp_path / "ious.tsv").read_text().splitlines()]
    assert lines[0] == ["class", "pixels", "iou_patches"]
    assert lines[1] == ["sky", str((labels == 0).sum()), "1.0"]
    found.write(tmp_path / "new/ious.json", {"values": True})
    stored = json.loads((tmp_path / "new/ious.json").read_text())
    assert stored["values"] is True
    assert stored["miou"]["patches"] == 1
    assert stored["classes"][3] == {"class": "boat", "pixels": 0, "iou_patches": None}
    assert "patches 100.00%" in found.report()
