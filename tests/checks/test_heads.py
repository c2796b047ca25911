"""`num_classes` of the heads."""

import pytest
from mmengine.config import ConfigDict

from mmonepeace.checks import Report, check_heads
from mmonepeace.checks.classes import check_one_class

CLASSES = ("ellipse", "rectangle", "triangle")


def findings(model):
    report = Report()
    check_heads(ConfigDict(model), CLASSES, report)
    return report.findings


@pytest.mark.parametrize(
    ("heads", "path", "value"),
    [
        (dict(decode_head=dict(num_classes=7)), "decode_head.num_classes", 7),
        (dict(auxiliary_head=dict(num_classes=7)), "auxiliary_head.num_classes", 7),
        (dict(roi_head=dict(bbox_head=dict(num_classes=80))), "roi_head.bbox_head.num_classes", 80),
        (
            dict(roi_head=dict(bbox_head=[dict(num_classes=3), dict(num_classes=4)])),
            "roi_head.bbox_head.1.num_classes",
            4,
        ),
        (
            dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=4))),
            "roi_head.mask_head.num_classes",
            4,
        ),
        (dict(bbox_head=dict(num_classes=1)), "bbox_head.num_classes", 1),
        (dict(mask_head=dict(num_classes=1)), "mask_head.num_classes", 1),
        (
            dict(panoptic_head=dict(num_things_classes=80, num_stuff_classes=0)),
            "panoptic_head.num_things_classes",
            80,
        ),
    ],
)
def test_every_head_that_classifies_is_checked(heads, path, value):
    (finding,) = findings(heads)
    assert finding.code == "num-classes"
    assert finding.where == (f"model.{path} is {value}",)
    assert f"--cfg-options model.{path}=3" in finding.fix
    assert "3 classes of the data (ellipse, rectangle, triangle)" in finding.what


def test_heads_that_count_something_else_are_left_alone():
    heads = dict(
        rpn_head=dict(num_classes=1),
        roi_head=dict(
            bbox_head=[dict(num_classes=3)] * 3,
            mask_head=dict(num_classes=80, class_agnostic=True),
            semantic_head=dict(num_classes=183),
        ),
        mask_head=dict(type="mmdet.CondInstMaskHead"),  # without classes
    )
    assert findings(heads) == []


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        (dict(num_classes=1), 2),
        (dict(num_classes=1, out_channels=1, loss_decode=dict(use_sigmoid=True)), 2),
        (dict(num_classes=2), 1),  # the classes of the data remain one
    ],
)
def test_one_class_of_pixels_is_told_with_both_right_ways(head, lines):
    report = Report()
    assert check_one_class(ConfigDict(decode_head=head), ("road",), True, report)
    (finding,) = report.findings
    assert finding.code == "one-class"
    assert len(finding.where) == lines
    for text in ("classes=('background', 'road')", "num_classes=2", "out_channels=1",
                 "use_sigmoid=True", "threshold=0.5"):  # fmt: skip
        assert text in finding.fix


SIGMOID = dict(type="CrossEntropyLoss", use_sigmoid=True)


@pytest.mark.parametrize(
    ("model", "is_softmax"),
    [
        (dict(decode_head=dict(num_classes=2, out_channels=1)), True),
        (dict(auxiliary_head=[dict(num_classes=2, out_channels=1)]), True),
        (dict(decode_head=dict(num_classes=2, out_channels=1, loss_decode=SIGMOID)), False),
        (dict(decode_head=dict(num_classes=2, out_channels=1,
              loss_decode=[SIGMOID, dict(type="DiceLoss")])), False),
        (dict(decode_head=dict(num_classes=2)), False),
        (dict(head=dict(type="LinearClsHead", num_classes=1)), True),
        (dict(head=dict(type="LinearClsHead", num_classes=1, loss=SIGMOID)), False),
        (dict(head=dict(type="MultiLabelLinearClsHead", num_classes=1)), False),
        (dict(bbox_head=dict(type="RetinaHead", num_classes=1)), False),
        (dict(roi_head=dict(bbox_head=dict(type="Shared2FCBBoxHead", num_classes=1))), False),
    ],
)  # fmt: skip
def test_a_softmax_over_one_value_is_found(model, is_softmax):
    report = Report()
    assert check_one_class(ConfigDict(model), (), "head" not in model, report) == is_softmax
    assert len(report.findings) == is_softmax
