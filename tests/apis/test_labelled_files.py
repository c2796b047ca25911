import json

import pytest

from mmonepeace.apis.labelled_files import Split, check_splits, read_split


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
    folder = read_split("val", tmp_path / "all", "image", None, None, {})
    assert folder.labels == ["cat", "cat", "dog"]
    assert folder.paths == [str(tmp_path / "all" / name) for name in files]
    for name in ("t.tsv", "t.jsonl"):
        assert read_split("val", tmp_path / name, "image", "kind", None, {}) == folder


def test_mistakes_of_sources_name_their_fix(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    table = tmp_path / "t.tsv"
    table.write_text("image\tkind\na.png\tcat\n")
    cases = [
        ((tmp_path, "image", None), r"lies in no folder of a class; expected .*CLASS/FILE"),
        ((table, "image", None), "name the column of its labels with --label"),
        ((table, "image", "sort"), "no column sort; there is image, kind"),
        ((table, "audio", "kind"), "no column audio; there is image, kind"),
        ((tmp_path, "audio", None), "has no audio files"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            read_split("train", *arguments, None, {})
    table.write_text("audio\tkind\na.png\tcat\n")
    with pytest.raises(ValueError, match="column audio names image files"):
        read_split("train", table, "audio", "kind", None, {})
    with pytest.raises(OSError, match=r"gone\.tsv"):
        read_split("train", tmp_path / "gone.tsv", "image", "kind", None, {})


def test_splits_that_cannot_be_probed_are_named():
    train = Split("train", ["a", "b"], ["cat", "dog"])
    assert check_splits(train, [Split("val", ["c"], ["dog"])]) == ["cat", "dog"]
    cases = [
        (train, Split("val", ["c", "d"], ["emu", "dog"]), "1 classes of val .* train: 'emu'. Add"),
        (train, Split("val", [], []), "val has no files"),
        (Split("train", [], []), Split("val", ["c"], ["dog"]), "train has no files"),
        (Split("train", ["a"], ["dog"]), Split("val", ["c"], ["dog"]), "all 1 files of train are"),
    ]
    for first, second, words in cases:
        with pytest.raises(ValueError, match=words):
            check_splits(first, [second])


def test_a_split_without_files_keeps_labels_beside_their_paths():
    split = Split("val", ["a", "b", "c"], ["cat", "dog", "emu"])
    assert split.without({"b": "broken"}) == Split("val", ["a", "c"], ["cat", "emu"])
