import json

import pytest

from mmonepeace.apis import find_files, read_table, read_texts
from mmonepeace.apis.sources import LabelledFiles, check_splits, read_labelled_files
from tests.apis.conftest import TEXTS


def test_folders_are_walked_sorted_and_without_hidden_files(data):
    (data / "images/.cache").mkdir()
    (data / "images/.cache/a.png").write_bytes(b"")
    names = [p.relative_to(data / "images").as_posix() for p in find_files(data / "images", "image", {})]  # fmt: skip
    assert names == ["a.png", "b.jpg", "broken.png", 'deep/<d> & "é".png', "deep/c.PNG", "deep/e.bmp"]  # fmt: skip
    with pytest.raises(ValueError, match=r"has no audio files: none ends with one of \.aif"):
        find_files(data / "images", "audio", {})
    with pytest.raises(ValueError, match="is not a folder"):
        find_files(data / "gone", "image", {})


def test_texts_of_lines_and_of_tables(data):
    assert read_texts(data / "texts.txt") == TEXTS
    table = data / "t.tsv"
    table.write_text('caption\tid\na "dog"\t1\na cat\t2\na "dog"\t3\n\t4\n', encoding="utf-8")
    assert read_texts(table) == ['a "dog"', "a cat"]
    with pytest.raises(ValueError, match="no column title; there is caption, id"):
        read_texts(table, "title")
    (data / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 1 is not UTF-8: b'.xe9'"):
        read_texts(data / "latin.txt")


def test_the_modality_of_tables_is_detected(data):
    table = data / "t.tsv"
    table.write_text("file\tkind\nx.wav\tdog\ny.flac\tcat\n")
    assert read_table(table, "file", "kind") == (
        "audio", [str(data / "x.wav"), str(data / "y.flac")], ["dog", "cat"]
    )  # fmt: skip
    table.write_text("file\tkind\nx.wav\tdog\ny.png\tcat\n")
    with pytest.raises(ValueError, match=r"column file names .*x\.wav and .*y\.png; expected ima"):
        read_table(table, "file", "kind")
    table.write_text("file\tkind\nx.wav\tdog\ny.txt\tcat\n")
    assert read_table(table, "file", "kind")[0] == "audio", "what the decoder says of y is enough"
    table.write_text("file\tkind\ny.txt\tcat\n")
    with pytest.raises(ValueError, match=r"names .*y\.txt; expected images only"):
        read_table(table, "file", "kind")


def test_tables_and_folders_of_the_same_files_are_the_same_split(tmp_path):
    files = ["cat/b.png", "cat/deep/a.png", "dog/c.PNG"]
    for name in [*files, "dog/notes.txt"]:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(b"")
    rows = [(f"all/{name}", name.split("/")[0]) for name in reversed(files)]
    table = "".join(f"{path}\t{kind}\n" for path, kind in rows)
    (tmp_path / "t.tsv").write_text(f"image\tkind\n{table}")
    lines = (json.dumps({"image": path, "kind": kind}) for path, kind in rows)
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    folder = read_labelled_files("val", tmp_path / "all", "image", None, None, {})
    assert folder.labels == ["cat", "cat", "dog"]
    assert folder.paths == [str(tmp_path / "all" / name) for name in files]
    for name in ("t.tsv", "t.jsonl"):
        assert read_labelled_files("val", tmp_path / name, "image", "kind", None, {}) == folder


def test_mistakes_of_sources_name_their_fix(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    table = tmp_path / "t.tsv"
    table.write_text("image\tkind\na.png\tcat\n")
    cases = [
        ((tmp_path, "image", None), r"is not in the folder of a class; expected .*CLASS/FILE"),
        ((table, "image", None), "name the column of its labels with --label"),
        ((table, "image", "sort"), "no column sort; there is image, kind"),
        ((table, "audio", "kind"), "no column audio; there is image, kind"),
        ((tmp_path, "audio", None), "has no audio files"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            read_labelled_files("train", *arguments, None, {})
    table.write_text("audio\tkind\na.png\tcat\n")
    with pytest.raises(ValueError, match="column audio names image files"):
        read_labelled_files("train", table, "audio", "kind", None, {})
    with pytest.raises(OSError, match=r"gone\.tsv"):
        read_labelled_files("train", tmp_path / "gone.tsv", "image", "kind", None, {})


def test_splits_that_cannot_be_probed_are_named():
    train = LabelledFiles("train", ["a", "b"], ["cat", "dog"])
    assert check_splits(train, [LabelledFiles("val", ["c"], ["dog"])]) == ["cat", "dog"]
    cases = [
        (
            train,
            LabelledFiles("val", ["c", "d"], ["emu", "dog"]),
            "1 classes of val .* train: 'emu'. Add",
        ),
        (train, LabelledFiles("val", [], []), "val has no files"),
        (
            LabelledFiles("train", [], []),
            LabelledFiles("val", ["c"], ["dog"]),
            "train has no files",
        ),
        (
            LabelledFiles("train", ["a"], ["dog"]),
            LabelledFiles("val", ["c"], ["dog"]),
            "all 1 files of train are",
        ),
    ]
    for first, second, words in cases:
        with pytest.raises(ValueError, match=words):
            check_splits(first, [second])


def test_a_split_without_files_keeps_labels_beside_their_paths():
    split = LabelledFiles("val", ["a", "b", "c"], ["cat", "dog", "emu"])
    assert split.without({"b": "broken"}) == LabelledFiles("val", ["a", "c"], ["cat", "emu"])
