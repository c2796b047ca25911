"""Fields of data samples as metrics read them: float32, on the CPU, checked.

Shapes: C classes or candidates.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

_MADE_BY_MODEL = "The model sets it when it predicts."
_MADE_BY_DATA = (
    "It comes from the table: look at the columns of the data set, and at meta_keys of the transform "
    "that packs its samples."
)


def read_field(sample: Mapping[str, Any], key: str) -> Any:
    """The value of a field.

    Raises:
        ValueError: if the sample lacks it.
    """
    value = sample.get(key)
    if value is None:
        raise ValueError(f"a data sample has no {key}. {_maker(key)}")
    return value


def read_vector(sample: Mapping[str, Any], key: str, length: int | None = None) -> Tensor:
    """(`length`,) float32 of a field, on the CPU; any length above 0 if `length` is None.

    Raises:
        ValueError: if the sample lacks it, or it has another shape.
    """
    value = read_field(sample, key)
    try:
        vector = torch.as_tensor(value).detach().to("cpu", torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{key} is {value!r}; expected numbers. {_maker(key)}") from None
    shape = tuple(vector.shape)
    if len(shape) != 1 or shape == (0,) or shape != (length or shape[0],):
        expected = f"({length},)" if length else "a vector, such as (C,)"
        raise ValueError(f"{key} has the shape {shape}; expected {expected}. {_maker(key)}")
    return vector


def read_scores(sample: Mapping[str, Any]) -> Tensor:
    """(C,) `pred_score`.

    Raises:
        ValueError: if the sample lacks it, or it has another shape or NaN.
    """
    score_C = read_vector(sample, "pred_score")
    nan = score_C.isnan().nonzero()
    if len(nan):
        raise ValueError(
            f"pred_score has NaN at {len(nan)} of {len(score_C)} classes, class {int(nan[0])} first. "
            "The model diverged or overflows: look at its losses, and evaluate it in float32 or "
            "bfloat16."
        )
    return score_C


def read_integer(sample: Mapping[str, Any], key: str) -> int:
    """An integer, also as a tensor or array of one, or as its digits.

    Raises:
        ValueError: if the sample lacks it, or it is something else.
    """
    value = read_field(sample, key)
    number = value.item() if hasattr(value, "item") and _size(value) == 1 else value
    try:
        if isinstance(number, bool):
            raise TypeError
        is_text = isinstance(number, str) and number.isdecimal()
        return int(number) if is_text else operator.index(number)
    except TypeError:
        raise ValueError(f"{key} is {value!r}; expected an integer. {_maker(key)}") from None


def class_names(metric: BaseMetric, number: int) -> Sequence[str]:
    """Names of the `number` classes that a model scores, from the metadata of the data set.

    Raises:
        ValueError: if there are none, or another number of them.
    """
    names = (metric.dataset_meta or {}).get("classes")
    if names is None or len(names) != number:
        has = "no classes" if names is None else f"{len(names):,} classes"
        raise ValueError(
            f"pred_score has {number:,} classes, and metainfo of the data set has {has}. List those "
            "of the model in classes.txt, one name per line, in its order."
        )
    return names


def _size(value: Any) -> int:
    return int(value.numel() if isinstance(value, Tensor) else value.size)


def _maker(key: str) -> str:
    return _MADE_BY_MODEL if key.startswith("pred_") else _MADE_BY_DATA
