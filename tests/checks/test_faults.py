"""Healthy data sets, each broken in one way: the checks find exactly that."""

import numpy as np
import pytest

from mmonepeace.checks.catalogue import CATALOGUE
from tests.checks.data import SIZE, check, codes, edit
from tests.checks.detection import DET, first, without_masks
from tests.checks.pairs import PAIRS, as_classes, as_labels, as_phrases
from tests.checks.segmentation import SEG
from tests.checks.test_weights import WEIGHTS


def test_a_healthy_segmentation_set_has_no_findings(segmentation):
    check(segmentation, set())
    report = segmentation.examine()
    train, val = report.sections
    assert [b.images for b in train.bins] == [6, 6, 6, 6]
    assert sum(b.amount for b in train.bins) == 6 * SIZE[0] * SIZE[1]
    assert val.split == "val and test"


@pytest.mark.parametrize("name", SEG)
def test_a_fault_of_a_segmentation_set_is_named(segmentation, name):
    fault, expected = SEG[name]
    fault(segmentation)
    check(segmentation, expected)


def test_a_healthy_detection_set_has_no_findings(detection):
    check(detection, set())
    report = detection.examine()
    assert [(b.amount, b.images) for b in report.sections[0].bins] == [(12, 6), (12, 6)]


@pytest.mark.parametrize(
    ("change", "code", "level"),
    [
        (dict(bbox=[44, 8, 21.5, 16], area=344), "box-leaves-image", "warning"),
        (dict(bbox=[44, 8, 30, 16], area=480), "box-leaves-image", "error"),
        (dict(iscrowd=1), "iscrowd", "note"),
    ],
)
def test_how_bad_a_fault_is_depends_on_how_far_it_goes(detection, change, code, level):
    without_masks(detection)
    detection.change("train", first(lambda a: a.update(change)))
    assert {f.code: f.level for f in detection.examine().findings} == {code: level}


@pytest.mark.parametrize(("factor", "level"), [(1, "note"), (257, "error")])
def test_deep_label_maps_are_an_error_only_where_numbers_are_lost(segmentation, factor, level):
    edit(segmentation.label("train", 0), lambda m: m.astype(np.uint16) * factor)
    assert {f.code: f.level for f in segmentation.examine().findings} == {"label-depth": level}


@pytest.mark.parametrize("name", DET)
def test_a_fault_of_a_detection_set_is_named(detection, name):
    fault, expected = DET[name]
    fault(detection)
    check(detection, expected)


def test_a_healthy_set_of_pairs_has_no_findings(pair_data):
    check(pair_data, set())


@pytest.mark.parametrize("name", PAIRS)
def test_a_fault_of_a_set_of_pairs_is_named(pair_data, name):
    fault, expected = PAIRS[name]
    fault(pair_data)
    check(pair_data, expected)


def test_a_healthy_set_of_classes_has_no_findings(pair_data):
    as_classes(pair_data)
    report = pair_data.examine()
    assert codes(report) == set()
    assert [b.images for b in report.sections[0].bins] == [3, 3]


@pytest.mark.parametrize(
    ("labels", "values", "amounts"),
    [
        ("several", "thing,other", [6, 6]),
        ("confidences", "other|!+3|!+0.9&&unknown|!+1|!+0.3", [0, 6]),
    ],
)
def test_each_of_several_labels_counts(pair_data, labels, values, amounts):
    as_labels(pair_data, labels, values)
    report = pair_data.examine()
    assert [(b.amount, b.images) for b in report.sections[0].bins] == [(n, n) for n in amounts]
    assert codes(report) == (set() if all(amounts) else {"class-absent-train"})


def test_rows_are_counted_and_the_files_they_share(pair_data):
    as_classes(pair_data, ("thing", "thing"))
    pair_data.replace("files/1.png", "files/0.png")
    section = pair_data.examine().sections[0]
    assert [(b.amount, b.images) for b in section.bins] == [(6, 5), (0, 0)]


def test_boxes_inside_their_images_have_no_findings(pair_data):
    as_phrases(pair_data, "0,0,9,5.5")
    assert codes(pair_data.examine()) == set()


def test_every_finding_has_a_fault_that_gives_it():
    seeded = set().union(*(e for faults in (SEG, DET, PAIRS) for _, e in faults.values()))
    # Those of test_report.py, and of test_weights.py.
    others = {"sampled", "dataset-not-covered", "weights-unusable", *WEIGHTS}
    assert set(CATALOGUE) - seeded == others
