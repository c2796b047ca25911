"""Questions and statements: VQA v2, NLVR2, and AVQA about sounds."""

import hashlib
import json
import sys
from typing import NamedTuple

from downloads import DataError
from official_files import Source, explain_format, read_json, read_json_lines
from official_tables import Content, Options, Row, Table, TaskSet, clean
from vqa_answers import confidences, derive_answers

_VQA_AT = " from visualqa.org/download"
_HELD_OUT = 20  # minival has about one of so many images of val2014
_SEPARATOR = "&&&"


def _vqa(source: Source, options: Options) -> Content:
    """Training needs an answer of the list; val keeps all questions, so that the score is the true one."""
    annotations, questions = {}, {}
    for split in ("train", "val"):
        annotations[split] = _annotations(source, f"{split}2014")
        questions[split] = _questions(source, f"{split}2014")
        if lost := annotations[split].keys() ^ questions[split].keys():
            raise DataError(
                f"{len(lost):,} questions of {split} lack an annotation, or the other way round, such "
                f"as {next(iter(lost))}. Are both files VQA v2?"
            )
    notes = []
    if not (classes := options.classes):
        everything = (*annotations["train"].values(), *annotations["val"].values())
        classes = derive_answers(annotation.most_common for annotation in everything)
        notes.append(
            "The answers are in order of frequency. Released weights have an order of their own: give "
            "it with --classes."
        )
    index = {answer: i for i, answer in enumerate(classes)}
    tables = {
        split: [
            _with_answers(question, annotations[split][number], index)
            for number, question in questions[split].items()
        ]
        for split in ("train", "val")
    }
    without = sum(not row["refs"] for row in tables["train"])
    if without:
        notes.append(
            f"{without:,} of {len(tables['train']):,} training questions have no answer of the list and "
            "are left out, as usual."
        )
    published = {"train": 443_757, "val": 214_354, "test": 447_793, "test-dev": 107_394}
    published["train"] -= without  # `published` is of all questions
    train = [row for row in tables["train"] if row["refs"]]
    minival = [row for row in tables["val"] if _is_held_out(row["image"][0])]
    rest = [row for row in tables["val"] if row["refs"] and not _is_held_out(row["image"][0])]
    result = {"train": Table(train), "val": Table(tables["val"])}
    result["trainval"] = Table([*train, *rest], derived=True)
    if minival:
        result["minival"] = Table(minival, derived=True)
    for split, name in (("test", "test2015"), ("test-dev", "test-dev2015")):
        if source.has(f"v2_OpenEnded_mscoco_{name}_questions.json"):
            rows = list(_questions(source, name).values())
            result[split] = Table(rows, derived=split == "test-dev")
        else:
            notes.append(f"No {split}.tsv: v2_OpenEnded_mscoco_{name}_questions.json is not there.")
    if len(classes) != 3129:
        notes.append(f"warning: {len(classes):,} answers, the official preprocessing has 3,129.")
    return Content(result, classes, published, notes=notes)


class _Annotation(NamedTuple):
    """What people answered, ten of them as a rule, and the answer that is most common."""

    most_common: str
    answers: list[str]


def _annotations(source: Source, name: str) -> dict[int, _Annotation]:
    """Number of a question -> what people answered, in less memory than its JSON takes."""
    file = f"v2_mscoco_{name}_annotations.json"
    content = read_json(source, file, _VQA_AT)
    with explain_format(file, "annotations with question_id, answers, multiple_choice_answer"):
        return {
            annotation["question_id"]: _Annotation(
                clean(annotation["multiple_choice_answer"]),
                [sys.intern(clean(answer["answer"])) for answer in annotation["answers"]],
            )
            for annotation in content["annotations"]
        }


def _questions(source: Source, name: str) -> dict[int, Row]:
    """Number of a question -> the row that asks it."""
    file = f"v2_OpenEnded_mscoco_{name}_questions.json"
    content = read_json(source, file, _VQA_AT)
    images = "test2015" if name.startswith("test") else name
    rows: dict[int, Row] = {}
    with explain_format(file, "questions with question_id, image_id and question"):
        for question in content["questions"]:
            image = f"COCO_{images}_{question['image_id']:012d}.jpg"
            rows[question["question_id"]] = {
                "question_id": str(int(question["question_id"])),
                "image": (f"{images}/{image}", image),
                "question": clean(question["question"]),
            }
    return rows


def _with_answers(question: Row, annotation: _Annotation, index: dict[str, int]) -> Row:
    scores = confidences(annotation.answers)
    refs = [f"{a}|!+{index[a]}|!+{score}" for a, score in scores.items() if a in index]
    answers = json.dumps(annotation.answers, ensure_ascii=False)
    return {**question, "refs": "&&".join(refs), "answers": answers}


def _is_held_out(image: str) -> bool:
    return int.from_bytes(hashlib.sha256(image.encode()).digest()[:4], "big") % _HELD_OUT == 0


def _nlvr2(source: Source, _options: Options) -> Content:
    """val is dev.json, test is test1.json, which papers call test-P."""
    tables = {}
    for split, name in {"train": "train", "val": "dev", "test": "test1"}.items():
        examples = read_json_lines(source, f"{name}.json", " from github.com/lil-lab/nlvr")
        with explain_format(f"{name}.json", "identifier, sentence and label True or False"):
            rows: list[Row] = []
            for example in examples:
                pair = example["identifier"].rpartition("-")[0]
                # Training images are in folders, named by `directory`.
                folder = f"{example['directory']}/" if "directory" in example else ""
                label = str(example["label"])
                if label not in ("True", "False"):
                    raise ValueError(f"{example['identifier']} has label {label!r}")
                images = {
                    f"image{i + 1}": (f"{folder}{pair}-img{i}.png", f"{pair}-img{i}.png")
                    for i in range(2)
                }
                rows.append({"text": clean(example["sentence"]), **images, "label": label})
        tables[split] = Table(rows)
    # The order of the official classes: True is class 0.
    return Content(tables, ["True", "False"], {"train": 86_373, "val": 6_982, "test": 6_967})


def _avqa(source: Source, _options: Options) -> Content:
    """The text is `question&&&a1&&&a2&&&a3&&&a4&&&index`, in its own case."""
    tables = {}
    for split in ("train", "val"):
        name = f"{split}_qa.json"
        rows: list[Row] = []
        questions = read_json(source, name, " from mn.cs.tsinghua.edu.cn/avqa")
        with explain_format(name, "video_name, question_text, four multi_choice, answer 0 to 3"):
            for item in questions:
                parts = [clean(part) for part in (item["question_text"], *item["multi_choice"])]
                answer = item["answer"]
                if len(parts) != 5 or answer not in range(4):
                    raise ValueError(f"{item['video_name']}: answer {answer} of {len(parts) - 1}")
                if any(_SEPARATOR in part for part in parts):
                    raise ValueError(f"{item['video_name']} has {_SEPARATOR} in its texts")
                text = _SEPARATOR.join([*parts, str(int(answer))])
                rows.append({"audio": (f"{item['video_name']}.*",), "text": text})
        tables[split] = Table(rows)
    return Content(tables, published={"train+val": 57_335})


SETS = {
    "vqa": TaskSet(_vqa, "v2_*.json of VQA v2; train2014, val2014 and test2015 of COCO"),
    "nlvr2": TaskSet(_nlvr2, "train.json, dev.json, test1.json, the images of NLVR2"),
    "avqa": TaskSet(_avqa, "train_qa.json, val_qa.json, the sound of the videos", 0.2),
}
