"""Questions and statements of the demo data: balanced, and true, says who reads them anew."""

import json
import re
from collections import Counter, defaultdict

import pytest

from tests.tools.emoji_discs import (
    is_beyond,
    is_clearly,
    make_builder,
    read_objects,
    read_table,
)

import emoji_questions  # isort: skip
from downloads import DataError  # isort: skip
from emoji_questions import Reply, balance  # isort: skip
from object_scenes import KIND_OF, KINDS  # isort: skip

WORDS = "(left of|right of|above|below)"
SINGULAR = {emoji_questions.plural(noun): noun for noun in (*KIND_OF, *KINDS)}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield make_builder(patch, emoji_questions, tmp_path_factory.mktemp("questions"))()


def boxes_of(objects, noun):
    return [o["box"] for o in objects if noun in (o["name"], KIND_OF[o["name"]])]


def relation(objects, name, word, other):
    """Whether it holds; an error where a name does not mean one object, or a person may doubt it."""
    (first,), (second,) = boxes_of(objects, name), boxes_of(objects, other)
    assert is_clearly(first, word, second) == is_beyond(first, word, second)
    return is_beyond(first, word, second)


def answer(question, objects):
    """The answer to a question, from nothing but the list of objects."""
    if found := re.fullmatch(r"is there an? (.+)\?", question):
        return "yes" if boxes_of(objects, found[1]) else "no"
    if found := re.fullmatch(r"how many (.+) are there\?", question):
        return str(len(boxes_of(objects, SINGULAR[found[1]])))
    if found := re.fullmatch(rf"is the (.+) {WORDS} the (.+)\?", question):
        return "yes" if relation(objects, *found.groups()) else "no"
    found = re.fullmatch(rf"(what|which kind of thing) is {WORDS} the (.+)\?", question)
    asked, word, other = found.groups()
    (reference,) = boxes_of(objects, other)
    (target,) = [o for o in objects if is_beyond(o["box"], word, reference)]
    assert is_clearly(target["box"], word, reference)
    return target["name"] if asked == "what" else KIND_OF[target["name"]]


def is_true(text, first, second):
    """Whether a statement about two images is true, from nothing but the lists of objects."""
    both = first, second
    if found := re.fullmatch(
        r"the (left|right) image has more (.+) than the (left|right) image", text
    ):
        left, right = (len(boxes_of(objects, SINGULAR[found[2]])) for objects in both)
        assert left != right
        return (left > right) == (found[1] == "left")
    if found := re.fullmatch(
        rf"the (.+) is {WORDS} the (.+) in (both images|exactly one image)", text
    ):
        *words, which = found.groups()
        held = sum(relation(objects, *words) for objects in both)
        return held == (2 if which == "both images" else 1)
    which, name = re.fullmatch(r"(.+) (?:image|images) (?:has|have) an? (.+)", text).groups()
    left, right = (bool(boxes_of(objects, name)) for objects in both)
    return {
        "both": left and right, "exactly one": left != right,
        "only the left": left and not right, "only the right": right and not left,
    }[which]  # fmt: skip


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_answer_of_most_is_true(out, split):
    objects, seen = read_objects(out, split), set()
    for row in read_table(out / f"questions_{split}.tsv"):
        answers = json.loads(row["answers"])
        assert len(answers) == 10
        ((most, count),) = Counter(answers).most_common(1)
        assert count >= 7
        assert most == answer(row["question"], objects[row["image"]]), row
        seen.add(row["template"])
    assert len(seen) == 16


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_question_has_each_of_its_answers_equally_often(out, split):
    answers = defaultdict(Counter)
    rows = read_table(out / f"questions_{split}.tsv")
    for row in rows:
        answers[row["question"]][json.loads(row["answers"])[0]] += 1
    for counts in answers.values():
        assert len(counts) >= 2
        assert len(set(counts.values())) == 1
    assert [row["question_id"] for row in rows] == [str(i) for i in range(len(rows))]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["question"] == second["question"]
        assert first["image"] != second["image"]
        assert json.loads(first["answers"])[0] != json.loads(second["answers"])[0]
    assert len({(row["question"], row["image"]) for row in rows}) == len(rows)


def test_soft_targets_are_the_answers_and_their_classes(out):
    classes = (out / "classes.txt").read_text().splitlines()
    assert len(set(classes)) == len(classes)
    softened = 0
    for split in ("train", "val"):
        for row in read_table(out / f"questions_{split}.tsv"):
            counts = Counter(json.loads(row["answers"]))
            refs = [ref.split("|!+") for ref in row["refs"].split("&&")]
            assert {label for label, _, _ in refs} == set(counts)
            for label, number, confidence in refs:
                assert classes[int(number)] == label
                expected = {1: 0.3, 2: 0.6, 3: 0.9}.get(counts[label], 1.0)
                assert float(confidence) == expected
            softened += len(refs) > 1
    assert softened > 50


def test_who_overlooks_what_is_half_hidden_answers_otherwise(out):
    visible = defaultdict(list)
    for image, objects in read_objects(out, "train").items():
        for o in objects:
            visible[image, o["name"]].append(o["visible"])
    checked = 0
    for row in read_table(out / "questions_train.tsv"):
        name = re.fullmatch(r"is there an? (.+)\?", row["question"])
        if name and (seen := visible.get((row["image"], name[1]))):
            overlook = Counter(json.loads(row["answers"]))["no"]
            assert overlook == sum(max(seen) < limit for limit in (0.85, 0.7, 0.55))
            checked += 1
    assert checked > 60


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_statement_is_equally_often_true_and_false(out, split):
    objects, labels, seen = read_objects(out, split), defaultdict(Counter), set()
    rows = read_table(out / f"statements_{split}.tsv")
    for row in rows:
        first, second = objects[row["image1"]], objects[row["image2"]]
        assert str(is_true(row["text"], first, second)) == row["label"], row
        assert row["image1"] != row["image2"]
        labels[row["text"]][row["label"]] += 1
        seen.add(row["template"])
    assert all(counts["True"] == counts["False"] > 0 for counts in labels.values())
    assert any("left of" in template or "right of" in template for template in seen)
    assert len({(r["text"], r["image1"], r["image2"]) for r in rows}) == len(rows)


def test_swapping_the_images_swaps_who_has_more(out):
    rows = [row for row in read_table(out / "statements_train.tsv") if " more " in row["text"]]
    label = {(row["text"], row["image1"], row["image2"]): row["label"] for row in rows}
    assert len(label) > 100
    for (text, first, second), value in label.items():
        assert label[text, second, first] != value


def test_baselines_are_what_the_tables_give(out):
    results = json.loads((out / "meta.json").read_text())["results"]

    def asked(split, family=""):
        return [
            (row["question"], json.loads(row["answers"])[0])
            for row in read_table(out / f"questions_{split}.tsv")
            if row["template"].startswith(family)
        ]

    def said(split):
        return [(row["text"], row["label"]) for row in read_table(out / f"statements_{split}.tsv")]

    def accuracy(source, rows):
        right, everything = 0, Counter(answer for _, answer in source)
        counts = defaultdict(Counter)
        for text, answer in source:
            counts[text][answer] += 1
        for text, answer in rows:
            right += answer == (counts[text] or everything).most_common(1)[0][0]
        return pytest.approx(100 * right / len(rows), abs=0.01)

    baselines = results["baselines"]
    assert baselines["question_text_only"] == accuracy(asked("train"), asked("val"))
    assert baselines["question_text_only_bound"] == accuracy(asked("val"), asked("val"))
    assert baselines["statement_text_only"] == accuracy(said("train"), said("val")) == 50
    assert baselines["statement_text_only_bound"] == accuracy(said("val"), said("val")) == 50
    assert 50 < baselines["statement_first_image_bound"] < 80
    for family in ("is there", "is the"):
        rows = asked("val", f"{family} ")
        assert accuracy(rows, rows) == 50
        assert results["text_only_by_family"][family] == 50


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([900, 80], 64, (2, 32)),
        ([900, 80, 30, 9], 64, (4, 9)),
        ([900, 80, 30, 1], 64, (3, 20)),
        ([5, 5, 5], 8, (3, 2)),
        ([3, 1, 1], 8, (2, 1)),
        ([7], 8, (0, 0)),
        ([], 8, (0, 0)),
    ],
)
def test_many_answers_are_worth_fewer_rows(counts, most, expected):
    assert balance(counts, most) == expected


def test_ten_annotators_agree_by_the_official_confidences():
    reply = Reply("yes", "no", 2)
    assert reply.answers == ["yes"] * 8 + ["no"] * 2
    assert reply.refs(["no", "yes"]) == "yes|!+1|!+1.0&&no|!+0|!+0.6"
    assert Reply("3").refs(["3"]) == "3|!+0|!+1.0"


def test_the_same_seed_gives_the_same_files(tmp_path, monkeypatch):
    build = make_builder(monkeypatch, emoji_questions, tmp_path)
    few = {"train": 120, "val": 80}
    first, second = build("a", **few), build("b", jobs=1, **few)
    files = [p.relative_to(first) for p in sorted(first.rglob("*.*"))]
    assert len(files) == 200 + 8
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_too_few_images_are_an_error(tmp_path, monkeypatch):
    build = make_builder(monkeypatch, emoji_questions, tmp_path)
    with pytest.raises(DataError, match="--train is 1: too few images"):
        build(train=1, val=1)
