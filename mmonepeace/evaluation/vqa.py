"""Accuracy of answers to questions about images, and the file that the VQA test server takes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmonepeace.atomic_file import atomic_file
from mmonepeace.evaluation.sample_fields import (
    class_names,
    read_field,
    read_integer,
    read_scores,
    read_vector,
)
from mmonepeace.evaluation.vqa_answers import NUM_ANSWERS, answer_accuracy
from mmonepeace.registry import METRICS


@dataclass(frozen=True)
class _Answer:
    """What a sample gives; None where it has no such field."""

    confidence: float | None
    accuracy: float | None
    question_id: int | None
    answer: str


@METRICS.register_module()
class VQAAccuracy(BaseMetric):
    """Accuracy of the answers with the highest scores, in per cent.

    A data sample has `pred_score` (C,) over the answers that the data set lists as its classes, and

    - `gt_score` (C,), the confidence of each answer, from 0 to 1: `confidence` is the mean of that of
      the predicted answers, which the official code logs;
    - or `answers`, those of ten people, or both: `accuracy` is the true VQA accuracy, see
      `vqa_answers.answer_accuracy`. It also counts answers that are not classes.

    Of equal scores, the first one is the highest.

    Args:
        out_file: .json file for the predictions, as the test server takes them: a list of
            `{"question_id": int, "answer": str}`, in the order of the samples. Samples then need a
            `question_id`, and neither `gt_score` nor `answers`.
        kwargs: of `BaseMetric`.

    Raises:
        ValueError: if a field is missing, of another shape or out of range, only some samples have
            it, there are not ten answers, or a question id is repeated in `out_file`.
    """

    default_prefix = "vqa"

    def __init__(self, out_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if out_file is not None and (Path(out_file).suffix != ".json" or Path(out_file).is_dir()):
            raise ValueError(f"out_file is {out_file!r}; expected a file whose name ends in .json.")
        self.out_file = out_file
        self.size = 0

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the answer to each question, and what it counts."""
        for sample in data_samples:
            score_C = read_scores(sample)
            best = int(np.argmax(score_C.numpy()))  # the first one of equal scores
            answer = class_names(self, len(score_C))[best]
            is_judged = sample.get("gt_score") is not None or sample.get("answers") is not None
            if not is_judged and self.out_file is None:
                raise ValueError(
                    "a data sample has neither gt_score nor answers. Add refs or answers to the "
                    "table, or set out_file of VQAAccuracy to write predictions for the test server."
                )
            result = _Answer(
                confidence=_read_confidence(sample, best, len(score_C)),
                accuracy=_read_accuracy(sample, answer),
                question_id=read_integer(sample, "question_id") if self.out_file else None,
                answer=answer,
            )
            self.results.append(result)

    def evaluate(self, size: int) -> dict[str, float]:
        """Note how many questions there are, and measure."""
        self.size = size
        return super().evaluate(size)

    def compute_metrics(self, results: Sequence[_Answer]) -> dict[str, float]:
        """`confidence` and `accuracy`, where the samples have what they need; writes `out_file`."""
        fields = {"confidence": "gt_score", "accuracy": "answers"}
        metrics = {}
        for name, field in fields.items():
            values = [v for result in results if (v := getattr(result, name)) is not None]
            if 0 < len(values) < len(results):
                raise ValueError(
                    f"{field} is missing in {len(results) - len(values):,} of {len(results):,} data "
                    "samples; expected it in all or in none. Correct the table, or evaluate its rows "
                    "separately."
                )
            if values:
                metrics[name] = 100 * float(np.mean(values))
        if self.out_file is not None:
            self._write(results, Path(self.out_file))
        return metrics

    def _write(self, results: Sequence[_Answer], path: Path) -> None:
        counts = Counter(result.question_id for result in results)
        repeated = [question for question, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(
                f"question_id {repeated[0]} is repeated, as {len(repeated):,} of {len(counts):,} are; "
                f"the test server takes one answer to each question. {path} is not written: "
                "correct the table."
            )
        rows = [{"question_id": r.question_id, "answer": r.answer} for r in results]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(rows) + "\n", encoding="utf-8")
        line = f"{len(rows):,} answers are in {path}."
        if missing := self.size - len(rows):
            line += (
                f" {missing:,} of {self.size:,} questions have none, because their samples cannot be "
                "read: the test server refuses such a file."
            )
        print_log(line, logger="current")


def _read_confidence(sample: Mapping[str, Any], best: int, number: int) -> float | None:
    if sample.get("gt_score") is None:
        return None
    truth_C = read_vector(sample, "gt_score", number)
    outside = truth_C[~((truth_C >= 0) & (truth_C <= 1))]
    if len(outside):
        raise ValueError(
            f"gt_score has {float(outside[0]):g}; expected confidences from 0 to 1. Correct refs in "
            "the table."
        )
    return float(truth_C[best])


def _read_accuracy(sample: Mapping[str, Any], answer: str) -> float | None:
    if sample.get("answers") is None:
        return None
    answers = read_field(sample, "answers")
    is_list = isinstance(answers, (list, tuple)) and all(isinstance(a, str) for a in answers)
    if not is_list or len(answers) != NUM_ANSWERS:
        has = f"has {len(answers)}" if is_list else f"is {answers!r}"
        raise ValueError(
            f"answers {has}; expected those of {NUM_ANSWERS} people as a list of strings. Correct "
            "answers in the table, or leave its column out and use refs alone."
        )
    return answer_accuracy(answer, answers)
