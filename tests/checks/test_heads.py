"""`num_classes` of the heads."""

import pytest
from mmengine.config import ConfigDict

from mmonepeace.checks import Report, check_heads

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
    )
    assert findings(heads) == []
