from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmonepeace.evaluation.sample_fields import (
    class_names,
    read_integer,
    read_scores,
    read_vector,
)
from tests.evaluation.samples import element

FROM_TABLE = "look at the columns of the data set"
FROM_MODEL = "The model sets it when it predicts"


@pytest.mark.parametrize(
    "value", [[1, 0.5], np.float64([1, 0.5]), torch.tensor([1, 0.5]).bfloat16()]
)
@pytest.mark.parametrize("kind", [dict, element])
def test_vectors_of_any_kind_are_float32(value, kind):
    vector = read_vector(kind(gt_score=value), "gt_score", 2)
    assert vector.dtype == torch.float32
    assert vector.tolist() == [1, 0.5]


def test_scores_are_detached():
    assert not read_scores({"pred_score": torch.ones(2, requires_grad=True)}).requires_grad


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "a data sample has no pred_box"),
        (torch.ones(3), r"pred_box has the shape \(3,\); expected \(4,\)"),
        (torch.ones(4, 1), r"pred_box has the shape \(4, 1\); expected \(4,\)"),
        (2.0, r"pred_box has the shape \(\); expected \(4,\)"),
        ("abcd", "pred_box is 'abcd'; expected numbers"),
        ([1, [2]], r"pred_box is \[1, \[2\]\]; expected numbers"),
    ],
)
def test_bad_vectors_are_named(value, words):
    with pytest.raises(ValueError, match=f"{words}.*{FROM_MODEL}"):
        read_vector({"pred_box": value}, "pred_box", 4)
    with pytest.raises(ValueError, match=f"{words.replace('pred', 'gt')}.*{FROM_TABLE}"):
        read_vector({"gt_box": value}, "gt_box", 4)


def test_scores_with_nan_and_empty_ones_are_refused():
    assert read_scores({"pred_score": [1, -torch.inf]}).tolist() == [1, -torch.inf]
    with pytest.raises(ValueError, match="pred_score has NaN at 2 of 4 classes, class 1 first"):
        read_scores({"pred_score": torch.tensor([0, torch.nan, 1, torch.nan])})
    with pytest.raises(ValueError, match=r"pred_score has the shape \(0,\); expected a vector"):
        read_scores({"pred_score": torch.ones(0)})


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.array([3]), torch.tensor(3), torch.tensor([3]), "3"]
)
def test_integers_of_any_kind(value):
    assert read_integer({"gt_label": value}, "gt_label") == 3


@pytest.mark.parametrize(
    "value", [3.0, True, "3.5", "1_0", "", "dog", torch.tensor([1, 2]), torch.tensor(3.0), [3]]
)
def test_what_is_no_integer_is_named(value):
    with pytest.raises(ValueError, match=r"(?s)gt_label is .*; expected an integer.*meta_keys"):
        read_integer({"gt_label": value}, "gt_label")


@pytest.mark.parametrize(
    ("meta", "words"),
    [(None, "no classes"), ({}, "no classes"), ({"classes": ["a", "b"]}, "2 classes")],
)
def test_classes_and_scores_have_the_same_number(meta, words):
    metric = SimpleNamespace(dataset_meta=meta)
    with pytest.raises(ValueError, match=f"pred_score has 3 classes, .* has {words}.*classes.txt"):
        class_names(metric, 3)
    assert class_names(SimpleNamespace(dataset_meta={"classes": "abc"}), 3) == "abc"
