"""Questions about notes: a listener who knows the pitch of each tone answers them all."""

import argparse
import json
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.tools.emoji_discs import read_table

sys.path.insert(0, str(ROOT / "tools/dataset_converters"))
import note_questions
from downloads import DataError
from instrument_notes import SAMPLE_RATE, SPLITS

KEYS = (50, 55, 60, 69)
LABELS = sorted(note_questions.NAME_OF)
TONES = [(label, key) for label in LABELS for key in KEYS]
SPACING = 37  # Hz between tones; those of validation are in between


def frequency(label, key, bank):
    return 400 + SPACING * TONES.index((label, key)) + (SPACING // 2) * (bank == "gmbank")


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """A folder as instrument_notes.py makes it, in which each note is a pure tone of its own."""
    folder = tmp_path_factory.mktemp("notes")
    time = np.arange(round(1.5 * SAMPLE_RATE)) / SAMPLE_RATE
    for split, banks in SPLITS.items():
        lines = ["audio\tcaption\tlabel\tfamily\tmidi_note\tsound_bank"]
        for bank in banks:
            (folder / bank).mkdir()
            for label, key in TONES:
                name = f"{bank}/{label}_{key}.wav"
                tone = 0.5 * np.sin(2 * np.pi * frequency(label, key, bank) * time)
                soundfile.write(folder / name, tone, SAMPLE_RATE)
                pitch = "" if note_questions.NAME_OF[label] == "drum" else key
                lines.append(f"{name}\ta note\t{label}\ta family\t{pitch}\t{bank}")
            lines.append(f"{bank}/none.wav\ta sitar\tsitar\tworld\t60\t{bank}")
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def build(notes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")

    def run(name="out", **options):
        args = {"notes": notes, "train": 160, "val": 120, "seed": 0, "jobs": 2}
        note_questions.build(argparse.Namespace(out=folder / name, **{**args, **options}))
        return folder / name

    return run


@pytest.fixture(scope="module")
def out(build):
    return build()


def hear(sound, is_val, least=0.2):
    """The (label, key) of each tone in a sound, and the error of the strongest in Hz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    hertz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    tones, errors = set(), {}
    for place in np.flatnonzero(spectrum > least * spectrum.max()):
        position = (hertz[place] - 400 - (SPACING // 2) * is_val) / SPACING
        tone = TONES[round(position)]
        tones.add(tone)
        errors[tone] = min(errors.get(tone, 99), abs(position - round(position)) * SPACING)
    assert max(errors.values()) < 5  # a tone of the other split's bank is off by half the spacing
    return tones


def listen(path, is_val):
    """The notes of a clip, in order."""
    sound, rate = soundfile.read(path)
    assert (rate, sound.ndim) == (SAMPLE_RATE, 1)
    step = round(0.7 * SAMPLE_RATE)
    assert len(sound) % step == 0
    played = []
    for start in range(0, len(sound), step):
        assert np.abs(sound[start + round(0.62 * SAMPLE_RATE) : start + step]).max() < 0.02
        (tone,) = hear(sound[start : start + round(0.55 * SAMPLE_RATE)], is_val)
        played.append(tone)
    return played


def answer(question, played):
    names = [note_questions.NAME_OF[label] for label, _ in played]
    if question == "which instrument plays first?":
        return names[0]
    if question == "which instrument plays last?":
        return names[-1]
    if question == "how many notes are played?":
        return str(len(played))
    if question == "how many different instruments play?":
        # The same, whether a viola is another instrument than a violin or not.
        assert len(set(names)) == len({label for label, _ in played})
        assert len(played) == 4
        return str(len(set(names)))
    assert question == "is the second note higher or lower than the first?"
    if len(played) == 1:
        return "there is no second note"
    (first, low), (second, high) = played[:2]
    assert first == second
    assert note_questions.NAME_OF[first] != "drum"
    assert low == high or abs(low - high) >= 4
    return "the same" if low == high else "higher" if high > low else "lower"


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_right_candidate_is_what_is_heard(out, split):
    asked, answers = Counter(), (out / "answers.txt").read_text().splitlines()
    for row in read_table(out / f"questions_{split}.tsv"):
        question, *candidates, index = row["text"].split("&&&")
        assert len(set(candidates)) == 4
        played = listen(out / row["audio"], split == "val")
        assert candidates[int(index)] == answer(question, played)
        assert (row["question"], row["answer"]) == (question, candidates[int(index)])
        assert row["answer"] in answers
        if question.startswith("which"):
            names = [note_questions.NAME_OF[label] for label, _ in played]
            assert set(names) <= set(candidates)
            assert 2 <= len(set(names)) == len(names)
        asked[question] += 1
    assert len(asked) == 5


def test_who_does_not_listen_is_right_once_in_four(out):
    results = json.loads((out / "meta.json").read_text())["results"]
    for split in ("train", "val"):
        indices = defaultdict(Counter)
        for row in read_table(out / f"questions_{split}.tsv"):
            text, _, index = row["text"].rpartition("&&&")
            indices[text][index] += 1
        for counts in indices.values():
            assert set(counts) == set("0123")
            assert len(set(counts.values())) == 1
    assert results["baselines"]["question_text_only_bound"] == 25
    # Without candidates: ten instruments, or four other answers.
    assert 10 < results["baselines"]["answer_text_only_bound"] < 35
    assert sum(results["questions"]["train"].values()) == 160


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_mixture_has_the_labels_that_are_heard(out, split):
    classes = (out / "classes.txt").read_text().splitlines()
    numbers, total = Counter(), 0
    rows = read_table(out / f"mixtures_{split}.tsv")
    for row in rows:
        labels = row["labels"].split(",")
        assert labels == sorted(labels, key=classes.index)
        sound, _ = soundfile.read(out / row["audio"])
        assert len(sound) == 1.5 * SAMPLE_RATE
        assert np.abs(sound).max() == pytest.approx(0.7, abs=0.1)
        heard = hear(sound[round(0.3 * SAMPLE_RATE) :], split == "val")
        assert {note_questions.NAME_OF[label] for label, _ in heard} == set(labels)
        numbers[len(labels)] += 1
        total += len(labels)
    assert set(numbers) == {1, 2, 3}
    if split == "val":  # a constant score has the prevalence of a class as average precision
        results = json.loads((out / "meta.json").read_text())["results"]
        expected = 100 * total / len(rows) / len(classes)
        assert results["baselines"]["mixture_constant_map"] == pytest.approx(expected, abs=0.01)


def test_splits_share_no_sound_bank(out):
    banks = json.loads((out / "meta.json").read_text())["sound_banks"]
    assert not set(banks["train"]) & set(banks["val"])


def test_the_same_seed_gives_the_same_files_and_a_run_goes_on(build):
    few = {"train": 12, "val": 8}
    first, second = build("a", **few), build("b", jobs=1, **few)
    files = [p.relative_to(first) for p in sorted(first.rglob("*.*"))]
    assert len(files) == 2 * (12 + 8) + 7
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()
    kept = (first / "questions/val/00003.flac").stat().st_mtime_ns
    (first / "questions/val/00004.flac").unlink()
    build("a", **few)
    assert (first / "questions/val/00003.flac").stat().st_mtime_ns == kept
    assert (first / "questions/val/00004.flac").read_bytes() == (
        second / "questions/val/00004.flac"
    ).read_bytes()
    with pytest.raises(DataError, match="other options"):
        build("a", seed=1, **few)
    assert (build("c", seed=1, **few) / "questions_val.tsv").read_bytes() != (
        first / "questions_val.tsv"
    ).read_bytes()


def test_notes_that_are_missing_or_lack_an_instrument_are_named(build, notes, tmp_path, capsys):
    with pytest.raises(DataError, match=r"train\.tsv is missing\. Make it first"):
        build("none", notes=tmp_path)
    for split in SPLITS:
        text = (notes / f"{split}.tsv").read_text()
        lines = [line for line in text.splitlines() if "\tpiccolo\t" not in line]
        (tmp_path / f"{split}.tsv").write_text(
            "\n".join(line for line in lines if "\tflute\t" not in line)
        )
    with pytest.raises(DataError, match=r"train\.tsv has no flute of fluidr3mono"):
        build("none", notes=tmp_path)
    assert note_questions.run_converter(lambda: build("none", val=3)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: --val is 3, expected 4 or more."


def test_other_data_are_kept(build, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"other data \(mine\.txt\)"):
        build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
