"""Tables of images and sounds that share names. Nothing is downloaded: tables alone."""

import argparse
import csv
import sys
from collections import Counter

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import common_names
from downloads import DataError, write_table
from instrument_notes import DRUM_KIT, INSTRUMENTS


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(path, header, rows)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def folders(tmp_path):
    """Two artists and an unseen one draw each name and an anchor; each label has two clips, "bell" one more."""
    names = {name for kind in common_names.SOUNDS.values() for name in kind}
    for split, artists in (("train", ("a", "b")), ("val", ("c",))):
        rows = [
            (f"{x}/{name}.png", name) for x in artists for name in (*sorted(names), 'an "anchor"')
        ]
        write(tmp_path / "emoji" / f"{split}.tsv", ("image", "caption"), rows)
        for kind, sounds in common_names.SOUNDS.items():
            labels = [label for labels in sounds.values() for label in labels] + ["kazoo"]
            rows = [(f"{split}/{label}-{i}.ogg", label) for label in labels for i in range(2)]
            write(tmp_path / kind / f"{split}.tsv", ("audio", "label"), rows)
    return tmp_path


def build(folders, **others):
    options = dict(
        emoji=folders / "emoji", notes=folders / "notes", esc10=None, digits=None, seed=0
    )
    args = argparse.Namespace(**{**options, "out": folders / "out", **others})
    common_names.build(args)
    return args.out


def test_labels_are_those_of_general_midi_and_name_one_drawing_each():
    known = {label for _, labels in INSTRUMENTS.values() for label in labels} | set(DRUM_KIT[1])
    for kind, sounds in common_names.SOUNDS.items():
        labels = [label for labels in sounds.values() for label in labels]
        assert len(labels) == len(set(labels))
        assert kind != "notes" or set(labels) <= known


def test_sounds_have_the_names_of_drawings(folders):
    out = build(folders)
    sounds = read(out / "sounds_val.tsv")
    assert {"audio": "../notes/val/low tom-1.ogg", "caption": "drum", "label": "low tom"} in sounds
    assert not any(row["label"] == "kazoo" for row in sounds)
    drawings = read(out / "images_train.tsv")
    assert len(drawings) == 2 * len(common_names.SOUNDS["notes"])
    assert {"image": "../emoji/b/drum.png", "caption": "drum"} in drawings
    others = {row["caption"] for row in read(out / "other_images_train.tsv")}
    assert 'an "anchor"' in others
    assert not others & {row["caption"] for row in drawings}


def test_pairs_for_measuring_are_of_val_alone(folders):
    out = build(folders, esc10=folders / "esc10", digits=folders / "digits")
    pairs = read(out / "sound_to_picture.tsv")
    assert {row["image"].split("/")[2] for row in pairs} == {"c"}
    assert {row["audio"].split("/")[2] for row in pairs} == {"val"}
    assert {
        "audio": "../digits/val/seven-0.ogg", "image": "../emoji/c/keycap: 7.png",
        "text": "keycap: 7", "label": "seven",
    } in pairs  # fmt: skip
    # A name that two sets have is one name with all their clips.
    assert sum(row["text"] == "water wave" for row in pairs) == 4


def test_rare_names_are_repeated_in_training_only(folders):
    out = build(folders)
    counts = Counter(row["caption"] for row in read(out / "sounds_train.tsv"))
    assert max(counts.values()) <= 1.5 * min(counts.values()), counts
    once = Counter(row["audio"] for row in read(out / "sounds_val.tsv"))
    assert set(once.values()) == {1}


def test_the_control_has_the_same_clips_and_captions_in_another_order(folders):
    out = build(folders)
    true, control = (read(out / f"sounds_train{x}.tsv") for x in ("", "_shuffled"))
    assert [row["audio"] for row in true] == [row["audio"] for row in control]
    assert Counter(row["caption"] for row in true) == Counter(row["caption"] for row in control)
    kept = sum(a["caption"] == b["caption"] for a, b in zip(true, control, strict=True))
    assert kept < 0.15 * len(true)  # 1 of 13 by chance
    before = (out / "sounds_train_shuffled.tsv").read_bytes()
    assert (build(folders) / "sounds_train_shuffled.tsv").read_bytes() == before


def test_what_is_missing_is_named(folders, tmp_path):
    with pytest.raises(DataError, match=r"nowhere.train\.tsv is missing"):
        build(folders, notes=tmp_path / "nowhere", out=tmp_path / "o1")
    write(folders / "notes/val.tsv", ("audio", "label"), [("x.ogg", "violin")])
    with pytest.raises(DataError, match=r"notes/val\.tsv has no sound with the label"):
        build(folders, out=tmp_path / "o2")
    write(folders / "notes/val.tsv", ("sound", "label"), [("x.ogg", "violin")])
    with pytest.raises(DataError, match="has no column audio, but sound, label"):
        build(folders, out=tmp_path / "o3")
    write(folders / "emoji/val.tsv", ("image", "caption"), [("x.png", "anchor")])
    with pytest.raises(DataError, match="no column audio"):
        build(folders, out=tmp_path / "o4")


def test_a_folder_of_other_options_is_refused(folders):
    build(folders)
    with pytest.raises(DataError, match="made with other options"):
        build(folders, seed=3)
