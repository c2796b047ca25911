import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace.datasets import BoxDataset, ChoiceDataset, LabelledDataset
from mmonepeace.datasets.labelled import read_classes
from mmonepeace.datasets.manifest import ManifestError
from mmonepeace.datasets.tokenizer import train

PACK = dict(type="mmonepeace.PackModalities")


def write(folder, header, *rows, name="train.tsv"):
    path = folder / name
    path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n")
    return str(path)


def labelled(path, **options):
    options = dict(label="label", classes=["cat", "dog", "2"], columns={"audio": "audio"}) | options
    return LabelledDataset(path, pipeline=[], **options)


def test_a_name_or_the_place_of_a_class(tmp_path):
    rows = [("a.wav", "dog"), ("b.wav", "0"), ("c.wav", "2")]
    data = labelled(write(tmp_path, ("audio", "label"), *rows))
    # "2" is the name of a class, and happens to be its place too.
    assert [data.get_data_info(i)["gt_label"] for i in range(3)] == [1, 0, 2]
    assert data.metainfo["classes"] == ("cat", "dog", "2")
    assert "label" not in data.get_data_info(0)


def test_several_classes_become_a_vector(tmp_path):
    rows = [("a.wav", "dog,cat"), ("b.wav", "2")]
    data = labelled(write(tmp_path, ("audio", "label"), *rows), labels="several")
    scores = [data.get_data_info(i)["gt_score"] for i in range(2)]
    assert np.array_equal(scores, [[1, 1, 0], [0, 0, 1]])
    assert scores[0].dtype == np.float32


def test_confidences_of_the_official_tables(tmp_path):
    refs = "dog|!+7|!+0.6&&horse|!+8|!+0.3&&2|!+x|!+1.0"
    path = write(tmp_path, ("audio", "label", "people"), ("a.wav", refs, '["dog", "a horse"]'))
    data = labelled(path, labels="confidences", answers="people")
    record = data.get_data_info(0)
    # An answer that is not among the classes is no target.
    assert np.allclose(record["gt_score"], [0, 0.6, 1])
    assert record["answers"] == ["dog", "a horse"]


def test_a_row_without_a_label_is_a_fault_unless_no_answer_counts(tmp_path):
    path = write(tmp_path, ("audio", "label"), ("a.wav", "cat"), ("b.wav", ""))
    with pytest.raises(
        ManifestError, match=r"line 3: label is '': a label is empty, expected one of"
    ):
        labelled(path)
    path = write(tmp_path, ("audio", "label"), ("a.wav", "cat|!+0|!+1"), ("b.wav", ""))
    data = labelled(path, labels="confidences")
    assert [data.get_data_info(i)["gt_score"].sum() for i in range(2)] == [1, 0]


@pytest.mark.parametrize(
    ("labels", "value", "reason"),
    [
        ("one", "bird", r"'bird' is not among the 3 classes \(cat, dog, 2\)\. Correct it"),
        ("one", "3", "'3' is not among"),
        ("one", "02", "'02' is not among"),
        ("several", "cat,,dog", "a label is empty, expected one of the 3 classes"),
        ("confidences", "dog|!+7", r"expected name\|!\+number\|!\+confidence, not 'dog\|!\+7'"),
        ("confidences", "dog|!+7|!+1.5", "'dog' has 1.5, expected a confidence from 0 to 1"),
    ],
)
def test_wrong_labels_are_named_with_their_number(tmp_path, labels, value, reason):
    path = write(tmp_path, ("audio", "label"), ("a.wav", value), ("b.wav", "worse"), ("c.wav", "also"))  # fmt: skip
    with pytest.raises(ManifestError, match=reason) as error:
        labelled(path, labels=labels)
    assert f"{path}: line 2: label is {value!r}" in str(error.value)
    assert "2 more: 'worse', 'also'." in str(error.value)


def test_a_fault_is_named_with_the_table_that_has_it_as_it_is_reached(tmp_path):
    first = write(tmp_path, ("audio", "label"), ("a.wav", "cat"))
    (tmp_path / "b").mkdir()
    second = tmp_path / "b/other.jsonl"
    second.write_text('{"audio": "a.wav", "label": "dog"}\n\n{"audio": "a.wav", "label": "worse"}')
    with pytest.raises(ManifestError, match=r"b/other\.jsonl: line 3: label is 'worse'") as error:
        labelled([Path(first).name, "b/other.jsonl"], data_root=str(tmp_path))
    assert str(error.value).startswith(f"{second}: ")


def test_many_classes_are_not_all_named(tmp_path):
    path = write(tmp_path, ("audio", "label"), ("a.wav", "z"))
    with pytest.raises(ManifestError, match=r"the 6 classes \(a, b, c, d, e, \.\.\.\)"):
        labelled(path, classes=list("abcdef"))


def test_rows_that_are_repeated_keep_their_target(tmp_path):
    path = write(tmp_path, ("audio", "label"), ("a.wav", "dog"), ("b.wav", "cat"))
    data = labelled([dict(path=path, repeat=2)])
    assert [data.get_data_info(i)["gt_label"] for i in range(4)] == [1, 1, 0, 0]


def test_labels_without_a_class_are_noted(tmp_path):
    values = ("dgo|!+1|!+1", "", "dog|!+1|!+1&&x|!+1|!+1")
    rows = [(f"{i}.wav", value) for i, value in enumerate(values)]
    data = labelled(write(tmp_path, ("audio", "label"), *rows), labels="confidences")
    assert data.without_target == {"dgo|!+1|!+1"}
    assert len(list(data.places("label", data.without_target))) == 1


def test_a_table_without_labels_is_for_prediction(tmp_path):
    data = labelled(write(tmp_path, ("audio",), ("a.wav",)), label=None)
    assert "gt_label" not in data.get_data_info(0)


def test_only_rows_of_the_chosen_folds(tmp_path):
    rows = [("a.wav", "cat", "1"), ("b.wav", "dog", "2"), ("c.wav", "cat", "3")]
    path = write(tmp_path, ("audio", "label", "fold"), *rows)
    data = labelled(path, where={"fold": [1, "3"]})
    assert [data.get_data_info(i)["audio_path"][-5:] for i in range(len(data))] == ["a.wav", "c.wav"]  # fmt: skip
    with pytest.raises(ValueError, match="no row is left by where"):
        labelled(path, where={"fold": ["9"]})


def test_classes_from_files(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n2\n")
    (tmp_path / "list.json").write_text('["cat", "dog"]')
    (tmp_path / "numbers.json").write_text('{"dog": 1, "cat": 0}')
    path = write(tmp_path, ("audio", "label"), ("a.wav", "dog"))
    data = labelled(path.removeprefix(f"{tmp_path}/"), classes="classes.txt", data_root=str(tmp_path))  # fmt: skip
    assert data.metainfo["classes"] == ("cat", "dog", "2")
    assert read_classes(tmp_path / "list.json") == read_classes(tmp_path / "numbers.json")
    for content, reason in (
        ('{"dog": 1, "cat": 2}', "not 0 to 1"),
        ("[1, 2]", "no names"),
        ("{", "not JSON"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ManifestError, match=reason):
            read_classes(tmp_path / "bad.json")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(ManifestError, match="'a' more than once"):
        read_classes(tmp_path / "twice.txt")


def test_a_question_its_candidates_and_the_right_one(tmp_path):
    path = write(tmp_path, ("audio", "text"), ("a.wav", "What barks?&&&Cat&&&A Dog&&&1"))
    tokenizer = train(["what barks? answer: a dog", "What Barks? Answer: Cat"] * 2, 400)
    tokenize = dict(type="mmonepeace.Tokenize", tokenizer=tokenizer, cleaning="none")
    data = ChoiceDataset(path, num_candidates=2, columns={"audio": "audio"}, pipeline=[tokenize])
    record = data.get_data_info(0)
    assert record["text"] == ["What barks? answer: Cat", "What barks? answer: A Dog"]
    assert record["gt_label"] == 1
    ids = data.pipeline(record)["inputs"]["text"]
    # In the case it was written in, with a space in front.
    assert [tokenizer.decode(x) for x in ids] == record["text"]
    for value in ("What?&&&a&&&b&&&2", "What?&&&a&&&0", "What?", "What?&&&a&&&b&&&c&&&0"):
        path = write(tmp_path, ("audio", "text"), ("a.wav", value))
        with pytest.raises(ManifestError, match="expected a question, 2 candidates"):
            ChoiceDataset(path, num_candidates=2, columns={"audio": "audio"}, pipeline=[])


@pytest.mark.parametrize("size", [(383, 500), (384, 384), (385, 300), (200, 640)])
def test_a_box_stays_in_pixels_of_the_image_that_is_squashed(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    path = write(tmp_path, ("image", "text", "region_coord"), ("a.png", "it", "1,2.5,30,40"))
    data = BoxDataset(
        path,
        columns={"image": "image", "text": "text"},
        pipeline=[dict(type="mmonepeace.LoadImage", size=384), PACK],
    )
    sample = data[0]
    assert sample["inputs"]["image"].shape == (3, 384, 384)
    assert sample["data_samples"].ori_shape == size[::-1]
    assert sample["data_samples"].scale_factor == (384 / size[0], 384 / size[1])
    assert torch.equal(sample["data_samples"].gt_box, torch.tensor([1, 2.5, 30, 40]))


@pytest.mark.parametrize(
    ("value", "reason"),
    [("1,2,3", "four"), ("1,2,x,4", "four"), ("5,2,3,4", "x0 < x1"), ("1,2,3,inf", "four")],
)
def test_boxes_that_are_none(tmp_path, value, reason):
    path = write(tmp_path, ("image", "text", "region_coord"), ("a.png", "it", value))
    with pytest.raises(ManifestError, match=reason):
        BoxDataset(path, columns={"image": "image", "text": "text"}, pipeline=[])


def test_two_images_of_a_sample(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 30), colour).save(tmp_path / name)
    rows = ("image1", "image2", "text", "label"), ("a.png", "b.png", "one is red", "True")
    data = LabelledDataset(
        write(tmp_path, *rows),
        label="label",
        classes=["True", "False"],
        columns={"image": "image1", "image_2": "image2", "text": "text"},
        pipeline=[
            dict(type="mmonepeace.LoadImage", size=16),
            dict(type="mmonepeace.LoadImage", size=16, second=True),
            PACK,
        ],
    )
    sample = data[0]
    assert sample["inputs"]["image"].float().mean((1, 2)).tolist() == [255, 0, 0]
    assert sample["inputs"]["image_2"].float().mean((1, 2)).tolist() == [0, 0, 255]
    assert sample["data_samples"].gt_label == 0


def test_answers_have_to_be_strings(tmp_path):
    path = write(tmp_path, ("audio", "label", "answers"), ("a.wav", "cat", json.dumps([1, 2])))
    with pytest.raises(
        ManifestError, match=r"\.tsv: line 2: answers is '\[1, 2\]': expected a JSON"
    ):
        labelled(path, answers="answers")


def test_a_class_with_a_comma_is_refused_where_commas_separate(tmp_path):
    path = write(tmp_path, ("audio", "label"), ("a.wav", "rain, heavy"))
    classes = ["dog", "rain, heavy"]
    assert labelled(path, classes=classes).get_data_info(0)["gt_label"] == 1
    with pytest.raises(ManifestError, match="'rain, heavy' has a comma, which separates"):
        labelled(path, classes=classes, labels="several")


def test_names_of_classes_are_without_spaces_around_them(tmp_path):
    (tmp_path / "classes.txt").write_bytes(
        b"\xef\xbb\xbfa dog \r\n\r\n\t rain, heavy\r\n   \r\n'\"\r\n"
    )
    assert read_classes(tmp_path / "classes.txt") == ("a dog", "rain, heavy", "'\"")
