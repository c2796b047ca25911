"""Samples with targets, from the same tables as pairs: classes, candidate answers, boxes."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmonepeace.datasets.manifest import ManifestError, read_lines
from mmonepeace.datasets.pairs import PairDataset
from mmonepeace.registry import DATASETS

_SEPARATOR = "&&&"  # of a question, its candidates and the right one
_NAMED = 5  # faults that an error names
Record = dict[str, Any]


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Names of classes: a line each, without spaces around it, or a .json with a list or an object from name to number.

    Raises:
        ManifestError: if the file has no names, some twice, or numbers that are not 0, 1, 2, ...
        OSError: if it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".json":
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ManifestError(f"{path} is not JSON: {error}.") from None
        if isinstance(stored, dict):
            if sorted(map(str, stored.values())) != sorted(map(str, range(len(stored)))):
                raise ManifestError(f"{path}: its numbers are not 0 to {len(stored) - 1}.")
            stored = sorted(stored, key=lambda name: int(stored[name]))
        names = stored if isinstance(stored, list) else []
    else:
        names = [line.strip() for line in read_lines(path) if line.strip()]
    if not names or not all(isinstance(name, str) for name in names):
        raise ManifestError(
            f"{path} has no names of classes: expected a line or a string for each."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ManifestError(f"{path} has the class {twice[0]!r} more than once.")
    return tuple(names)


class TargetDataset(PairDataset):
    """`PairDataset` whose rows have a target in a further column.

    Args:
        ann_file: see `PairDataset`.
        target: column of the target; None for a table without, whose samples are only predicted.
        kwargs: of `PairDataset`: columns and others.
    """

    def __init__(self, ann_file: Any, target: str | None, **kwargs: Any) -> None:
        self.target = target
        extra = (*kwargs.pop("extra", ()), *([target] if target else ()))
        super().__init__(ann_file, extra=extra, **kwargs)

    def parse(self, value: str) -> Record:
        """What a record has of the value of its target; a ValueError says what is wrong."""
        raise NotImplementedError

    def load_data_list(self) -> list[Record]:
        """Read the manifests.

        Raises:
            ManifestError: for targets that cannot be used.
        """
        records, faults = super().load_data_list(), dict[str, str]()
        if self.target is None:
            return records
        for record in records:
            value = record.pop(self.target, "")
            try:
                record |= self.parse(value)
            except ValueError as error:
                faults[value] = str(error)
        if faults:
            value, first = next(iter(faults.items()))
            others = [repr(v) for v in list(faults)[1:_NAMED]]
            more = f" {len(faults) - 1:,} more: {', '.join(others)}." if others else ""
            raise ManifestError(f"{next(self.places(self.target, {value}))}: {first}{more}")
        return records


@DATASETS.register_module()
class LabelledDataset(TargetDataset):
    """Samples of any modalities with one class, several, or confidences of some.

    Args:
        ann_file: see `PairDataset`.
        label: column of the label; None for a table without.
        classes: their names, or a file with them, relative to `data_root`, see `read_classes`.
        columns: see `PairDataset`.
        labels: "one", a name; "several", names with commas between them; "confidences",
            `name|!+anything|!+confidence` with && between them, as in the official tables of VQA.
            A number that is no name is the place of a class, from 0.
        answers: column with what people answered, a JSON list of strings.
        kwargs: of `PairDataset`.

    A record has `gt_label`, the index of its class, or else `gt_score`, (classes,) float32; and
    perhaps `answers`. `without_target` has the labels all of whose answers are no classes.

    Raises:
        ManifestError: for a label that is not one of the classes.
    """

    def __init__(
        self,
        ann_file: Any,
        label: str | None,
        classes: Sequence[str] | str,
        columns: Mapping[str, str] | None = None,
        labels: Literal["one", "several", "confidences"] = "one",
        answers: str | None = None,
        **kwargs: Any,
    ) -> None:
        kinds: dict[str, Callable[[str], Record]] = {
            "one": self._one,
            "several": self._several,
            "confidences": self._confidences,
        }
        if labels not in kinds:
            raise ValueError(f"labels is {labels!r}; choose one of {', '.join(kinds)}.")
        if isinstance(classes, str):
            classes = read_classes(Path(kwargs.get("data_root") or "") / classes)
        if labels == "several" and (commas := [name for name in classes if "," in name]):
            raise ManifestError(
                f"the class {commas[0]!r} has a comma, which separates the labels of a sample. Write "
                "another name, there and in the table."
            )
        self.indices = {name: i for i, name in enumerate(classes)}
        self._parse = kinds[labels]
        self.without_target: set[str] = set()
        self.answers = answers
        super().__init__(
            ann_file,
            label,
            columns=columns or {"image": "image"},
            extra=(*kwargs.pop("extra", ()), *([answers] if answers else ())),
            metainfo={"classes": tuple(classes)},
            **kwargs,
        )

    def parse(self, value: str) -> Record:
        """`gt_label` or `gt_score`."""
        return self._parse(value)

    def load_data_list(self) -> list[Record]:
        """Read the manifests."""
        records = super().load_data_list()
        for record in records if self.answers else ():
            if text := record.pop(str(self.answers), ""):
                try:
                    record["answers"] = _json_strings(text)
                except ValueError as error:
                    place = next(self.places(str(self.answers), {text}))
                    raise ManifestError(f"{place}: {error}") from None
        return records

    def get_data_info(self, idx: int) -> Record:
        """The record of a sample."""
        record = super().get_data_info(idx)
        if (scores := record.pop("scores", None)) is not None:
            # Stored for the classes that have one: of VQA there are thousands, and 600,000 questions.
            record["gt_score"] = np.zeros(len(self.indices), np.float32)
            record["gt_score"][list(scores)] = list(scores.values())
        return record

    def index(self, name: str) -> int:
        """The index of a class."""
        if name in self.indices:
            return self.indices[name]
        # "02" is a name, such as that of a street, and not class 2.
        if name.isdecimal() and int(name) < len(self.indices) and name == str(int(name)):
            return int(name)
        more = ", ..." if len(self.indices) > _NAMED else ""
        known = f"{len(self.indices)} classes ({', '.join(list(self.indices)[:_NAMED])}{more})"
        if not name:
            raise ValueError(
                f"a label is empty, expected one of the {known}. Fill it in, or delete the row."
            )
        raise ValueError(
            f"{name!r} is not among the {known}. Correct it, or list all of them in `classes`."
        )

    def _one(self, value: str) -> Record:
        return {"gt_label": self.index(value)}

    def _several(self, value: str) -> Record:
        return {"scores": {self.index(name.strip()): 1.0 for name in value.split(",")}}

    def _confidences(self, value: str) -> Record:
        scores = {}
        for item in value.split("&&") if value else ():  # of some questions no answer counts
            name, _, rest = item.partition("|!+")
            confidence = _number(rest.rpartition("|!+")[2])
            if item.count("|!+") < 2 or math.isnan(confidence):
                raise ValueError(f"expected name|!+number|!+confidence, not {item!r}.")
            if not 0 <= confidence <= 1:
                raise ValueError(f"{name!r} has {confidence:g}, expected a confidence from 0 to 1.")
            if name in self.indices:  # officially too, any other answer is no target
                scores[self.indices[name]] = confidence
        if value and not scores:
            self.without_target.add(value)
        return {"scores": scores}


@DATASETS.register_module()
class ChoiceDataset(TargetDataset):
    """Clips or images with a question, candidate answers, and the right one.

    Args:
        ann_file: see `PairDataset`.
        question: column with the question, the candidates and the index of the right one, from 0,
            with &&& between them, as in the official tables of AVQA.
        num_candidates: of each question.
        kwargs: of `PairDataset`: columns and others.

    A record has `text`, a list of the texts of its candidates, and `gt_label`.
    """

    def __init__(
        self, ann_file: Any, question: str = "text", num_candidates: int = 4, **kwargs: Any
    ) -> None:
        self.num_candidates = num_candidates
        super().__init__(ann_file, question, **kwargs)

    def parse(self, value: str) -> Record:
        """`text` and `gt_label`."""
        question, *candidates = value.split(_SEPARATOR)
        right = candidates.pop() if candidates else ""
        number = len(candidates)
        if number != self.num_candidates or not right.isdecimal() or int(right) >= number:
            raise ValueError(
                f"expected a question, {self.num_candidates} candidates and the index of the right "
                f"one from 0, with {_SEPARATOR} between them."
            )
        return {"text": candidate_texts(question, candidates), "gt_label": int(right)}


@DATASETS.register_module()
class BoxDataset(TargetDataset):
    """Images with a phrase, and the box of what it names.

    Args:
        ann_file: see `PairDataset`.
        box: column of the corners x0,y0,x1,y1 in pixels of the image; None for a table without.
        kwargs: of `PairDataset`: columns and others.

    A record has `gt_box`, (4,) float32.
    """

    def __init__(self, ann_file: Any, box: str | None = "region_coord", **kwargs: Any) -> None:
        super().__init__(ann_file, box, **kwargs)

    def parse(self, value: str) -> Record:
        """`gt_box`."""
        corners = [_number(x) for x in value.split(",")]
        if len(corners) != 4 or not all(map(math.isfinite, corners)):
            raise ValueError("expected four numbers, x0,y0,x1,y1.")
        x0, y0, x1, y1 = corners
        if x0 >= x1 or y0 >= y1:
            raise ValueError("expected x0 < x1 and y0 < y1: two corners, not width and height.")
        return {"gt_box": np.array(corners, np.float32)}


def candidate_texts(question: str, candidates: Iterable[str]) -> list[str]:
    """A text for each candidate answer, in the official form."""
    return [f"{question} answer: {candidate}" for candidate in candidates]


def _number(text: str) -> float:
    """A number, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _json_strings(text: str) -> list[str]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("expected a JSON list of strings.")
    return values
