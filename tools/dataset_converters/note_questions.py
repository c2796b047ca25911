"""Build the demo data sets of audio question answering and of sounds with several labels.

Run:    python tools/dataset_converters/note_questions.py --notes data/gm_instruments \\
            --out data/note_questions
Needs:  the folder of instrument_notes.py
Makes:  OUT/questions/{train,val}/NNNNN.flac, 1 to 4 notes one after another;
        OUT/questions_{train,val}.tsv with the columns audio, text, which is
        question&&&a1&&&a2&&&a3&&&a4&&&index, as AVQA has it (index is from 0), question and answer;
        OUT/answers.txt with all answers;
        OUT/mixtures/{train,val}/NNNNN.flac, 1 to 3 notes at a time; OUT/mixtures_{train,val}.tsv
        with the columns audio and labels, separated by commas; OUT/classes.txt with all labels;
        OUT/meta.json

All audio is mono at 16 kHz. Questions: which instrument plays first or last, how many notes, how
many different instruments, whether the second note is higher than the first. Each question with its
candidates occurs four times, with another right candidate each time: who does not listen answers
25 %. The instruments of wrong candidates play in the clip, too. Notes of a clip are of one sound
bank; the two whose pitches are compared, of one instrument. Validation has a sound bank that is not
in training. A stopped run can be resumed. The same seed gives the same clips.
"""

import argparse
import csv
import hashlib
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import numpy as np
    import soundfile
    from blind_baselines import text_only_bound
    from downloads import (
        DataError,
        add_results,
        check_meta,
        run_converter,
        write_meta,
        write_table,
    )
    from instrument_notes import PEAK, SAMPLE_RATE, SPLITS, WITHOUT_PITCH
    from tqdm import tqdm

# Name -> labels of General MIDI.
INSTRUMENTS = {
    "piano": ("acoustic grand piano", "bright acoustic piano"),
    "organ": ("drawbar organ", "rock organ", "church organ"),
    "guitar": ("nylon guitar", "steel guitar"),
    "strings": ("violin", "viola", "cello", "string ensemble 1"),
    "brass": ("trumpet", "trombone", "french horn", "brass section"),
    "saxophone": ("soprano sax", "alto sax", "tenor sax"),
    "flute": ("flute", "piccolo"),
    "choir": ("choir aahs", "voice oohs"),
    "xylophone": ("xylophone", "marimba"),
    "drum": (
        "acoustic snare", "electric snare", "low tom", "low-mid tom", "hi-mid tom", "high tom",
    ),
}  # fmt: skip
NAME_OF = {label: name for name, labels in INSTRUMENTS.items() for label in labels}
HIGHER = ("higher", "lower", "the same", "there is no second note")
NUMBERS = ("1", "2", "3", "4")
ANSWERS = (*INSTRUMENTS, *NUMBERS, *HIGHER)
MIN_INTERVAL = 4  # semitones
NOTE_SECONDS, GAP_SECONDS, FADE_SECONDS = 0.6, 0.1, 0.04
MIXTURE_SECONDS, MAX_DELAY_SECONDS, MIN_GAIN = 1.5, 0.3, 0.5
MIXED = (1, 3)  # least and most notes of a mixture


class Note(NamedTuple):
    """A clip of instrument_notes.py."""

    path: Path
    name: str
    """A key of `INSTRUMENTS`."""
    label: str
    key: int | None
    """MIDI note; None where it has no pitch."""


class Bank(NamedTuple):
    """Notes of one sound bank."""

    by_name: dict[str, list[Note]]
    by_label: dict[str, list[Note]]

    def note(self, name: str, rng: random.Random) -> Note:
        """Any note of an instrument."""
        return rng.choice(self.by_name[name])

    def two_pitches(self, rng: random.Random) -> tuple[Note, Note]:
        """A lower and a higher note of one label."""
        pairs = {
            label: [
                (low, high)
                for low in notes
                for high in notes
                if None not in (low.key, high.key) and high.key - low.key >= MIN_INTERVAL
            ]
            for label, notes in sorted(self.by_label.items())
        }
        return rng.choice(rng.choice([found for found in pairs.values() if found]))


def read_notes(folder: Path) -> dict[str, dict[str, Bank]]:
    """Notes of the instruments, checked.

    Args:
        folder: made by instrument_notes.py.

    Returns:
        split -> sound bank -> notes.

    Raises:
        DataError: if there is no such folder, or it lacks an instrument.
    """
    found: dict[str, dict[str, Bank]] = {}
    for split in SPLITS:
        table = folder / f"{split}.tsv"
        if not table.is_file():
            raise DataError(
                f"{table} is missing. Make it first: instrument_notes.py --out {folder}"
            )
        notes: dict[str, Bank] = defaultdict(lambda: Bank(defaultdict(list), defaultdict(list)))
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                name, pitch = NAME_OF.get(row["label"]), row["midi_note"]
                if name is None:
                    continue
                has_pitch = pitch and name != "drum" and row["label"] not in WITHOUT_PITCH
                key = int(pitch) if has_pitch else None
                note, bank = Note(folder / row["audio"], name, row["label"], key), row["sound_bank"]
                notes[bank].by_name[name].append(note)
                notes[bank].by_label[note.label].append(note)
        for bank, had in notes.items():
            if missing := sorted(set(INSTRUMENTS) - set(had.by_name)):
                raise DataError(f"{table} has no {', '.join(missing)} of {bank}. Make it again.")
        found[split] = dict(notes)
    if both := sorted(set(found["train"]) & set(found["val"])):
        raise DataError(f"{folder}: {', '.join(both)} is in both splits. Make it again.")
    return found


class Sequence(NamedTuple):
    """A clip with a question about it."""

    question: str
    candidates: list[str]
    answer: str
    notes: list[Note]

    @property
    def text(self) -> str:
        """In the official format of four candidates."""
        index = self.candidates.index(self.answer)
        return "&&&".join([self.question, *self.candidates, str(index)])


def _first_or_last(
    bank: Bank, position: int, candidates: list[str], right: str, rng: random.Random
) -> list[Note]:
    """2 to 4 notes, of the right candidate at a position, of other candidates elsewhere."""
    others = [name for name in candidates if name != right]
    names = rng.sample(others, rng.randint(1, len(others)))
    names.insert(0 if position == 0 else len(names), right)
    return [bank.note(name, rng) for name in names]


def _numbers(bank: Bank, right: str, rng: random.Random) -> list[Note]:
    """As many notes, of one instrument or of several."""
    names = rng.choices(sorted(INSTRUMENTS), k=int(right))
    if rng.random() < 0.5:
        names = names[:1] * len(names)
    return [bank.note(name, rng) for name in names]


def _instruments(bank: Bank, right: str, rng: random.Random) -> list[Note]:
    """Four notes of as many different instruments, repeated ones of the same label."""
    notes = [bank.note(name, rng) for name in rng.sample(sorted(INSTRUMENTS), int(right))]
    labels = rng.choices([note.label for note in notes], k=4 - len(notes))
    notes += [rng.choice(bank.by_label[label]) for label in labels]
    rng.shuffle(notes)
    return notes


def _pitches(bank: Bank, right: str, rng: random.Random) -> list[Note]:
    """Notes of which the second one is higher than the first, or as `HIGHER` says."""
    low, high = bank.two_pitches(rng)
    if right == HIGHER[3]:
        return [rng.choice((low, high))]
    same = rng.choice((low, high))
    first = {"higher": [low, high], "lower": [high, low], "the same": [same, same]}[right]
    names = rng.choices(sorted(INSTRUMENTS), k=rng.randint(0, 2))
    return [*first, *(bank.note(name, rng) for name in names)]


def ask(banks: dict[str, Bank], rng: random.Random) -> list[Sequence]:
    """Four clips for one question with its candidates; each candidate is right once."""
    names = rng.sample(sorted(INSTRUMENTS), 4)
    make: Callable[[Bank, str], list[Note]]
    question, candidates, make = rng.choice(
        [
            ("which instrument plays first?", names,
             lambda bank, right: _first_or_last(bank, 0, names, right, rng)),
            ("which instrument plays last?", names,
             lambda bank, right: _first_or_last(bank, -1, names, right, rng)),
            ("how many notes are played?", [*NUMBERS],
             lambda bank, right: _numbers(bank, right, rng)),
            ("how many different instruments play?", [*NUMBERS],
             lambda bank, right: _instruments(bank, right, rng)),
            ("is the second note higher or lower than the first?", [*HIGHER],
             lambda bank, right: _pitches(bank, right, rng)),
        ]
    )  # fmt: skip
    rng.shuffle(candidates)
    return [
        Sequence(question, candidates, right, make(banks[rng.choice(sorted(banks))], right))
        for right in candidates
    ]


def choose_mixture(
    banks: dict[str, Bank], rng: random.Random
) -> tuple[list[Note], list[tuple[float, float]]]:
    """Notes of different instruments, and (delay in seconds, gain) of each."""
    bank = banks[rng.choice(sorted(banks))]
    names = rng.sample(sorted(INSTRUMENTS), rng.randint(*MIXED))
    notes = [bank.note(name, rng) for name in names]
    return notes, [(rng.uniform(0, MAX_DELAY_SECONDS), rng.uniform(MIN_GAIN, 1)) for _ in notes]


@lru_cache(maxsize=1024)
def load(path: Path) -> np.ndarray:
    """Samples of a note, mono at `SAMPLE_RATE`."""
    try:
        sound, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} cannot be read: {error}. Make it again.") from None
    if sound.ndim != 1 or rate != SAMPLE_RATE or not len(sound):
        raise DataError(f"{path} is not mono at {SAMPLE_RATE} Hz. Make it again.")
    return sound


def place(sound: np.ndarray, start: float, seconds: float, total: np.ndarray, gain: float) -> None:
    """Add the beginning of a note, faded out at its end, to a longer clip.

    Args:
        sound: (N,) samples.
        start: where in the clip, in seconds.
        seconds: of the note that are used.
        total: (T,) samples of the clip.
        gain: factor.
    """
    first, fade = round(start * SAMPLE_RATE), round(FADE_SECONDS * SAMPLE_RATE)
    note = sound[: min(round(seconds * SAMPLE_RATE), len(total) - first)].copy()
    note[-fade:] *= np.linspace(1, 0, len(note[-fade:]), dtype=np.float32)
    total[first : first + len(note)] += gain * note


def play_sequence(notes: list[Note]) -> np.ndarray:
    """Samples of notes one after another, with pauses between them."""
    step = NOTE_SECONDS + GAP_SECONDS
    total = np.zeros(round(len(notes) * step * SAMPLE_RATE), np.float32)
    for number, note in enumerate(notes):
        place(load(note.path), number * step, NOTE_SECONDS, total, 1)
    return total


def play_mixture(notes: list[Note], settings: list[tuple[float, float]]) -> np.ndarray:
    """Samples of notes at a time, see `choose_mixture`."""
    total = np.zeros(round(MIXTURE_SECONDS * SAMPLE_RATE), np.float32)
    for note, (delay, gain) in zip(notes, settings, strict=True):
        place(load(note.path), delay, MIXTURE_SECONDS, total, gain)
    return total * (PEAK / max(np.abs(total).max(), 1e-4))


def save(path: Path, notes: list[Note], settings: list[tuple[float, float]] | None) -> None:
    """Write a clip, unless it exists: a mixture where there are settings, else a sequence."""
    if path.exists():
        return
    sound = play_sequence(notes) if settings is None else play_mixture(notes, settings)
    with atomic_file(path, concurrent=True) as temporary:
        soundfile.write(temporary, sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def clip_name(table: str, split: str, index: int) -> str:
    """Path of a clip in the data set."""
    return f"{table}/{split}/{index:05}.flac"


def build(args: argparse.Namespace) -> None:
    """Make the data set from the notes."""
    for name, least in (("train", 4), ("val", 4), ("jobs", 1)):
        if getattr(args, name) < least:
            raise DataError(f"--{name} is {getattr(args, name)}, expected {least} or more.")
    counts = {"train": args.train // 4 * 4, "val": args.val // 4 * 4}
    banks = read_notes(args.notes)
    tables = [(args.notes / f"{split}.tsv").read_bytes() for split in counts]
    meta = {
        "task": "notes", **counts, "seed": args.seed,
        "sound_banks": {split: sorted(found) for split, found in banks.items()},
        "notes_sha256": [hashlib.sha256(table).hexdigest() for table in tables],
    }  # fmt: skip
    write_meta(args.out, check_meta(args.out, meta, "options"))
    jobs: list[tuple[Path, list[Note], list[tuple[float, float]] | None]] = []
    asked, labels = {}, {}
    for split, count in counts.items():
        for table in ("questions", "mixtures"):
            (args.out / table / split).mkdir(parents=True, exist_ok=True)
        rng = random.Random(f"{args.seed} questions {split}")
        sequences = [row for _ in range(count // 4) for row in ask(banks[split], rng)]
        rng.shuffle(sequences)
        rng = random.Random(f"{args.seed} mixtures {split}")
        mixtures = [choose_mixture(banks[split], rng) for _ in range(count)]
        clips = [(row.notes, None) for row in sequences]
        for table, rows in (("questions", clips), ("mixtures", mixtures)):
            jobs += [(args.out / clip_name(table, split, i), *row) for i, row in enumerate(rows)]
        asked[split] = [(row.text, row.question, row.answer) for row in sequences]
        played = [{note.name for note in notes} for notes, _ in mixtures]
        labels[split] = [[name for name in INSTRUMENTS if name in names] for names in played]
    with ProcessPoolExecutor(args.jobs) as pool:
        made = pool.map(save, *zip(*jobs, strict=True), chunksize=64)
        for _ in tqdm(made, "playing", total=len(jobs), unit="clip"):
            pass
    for split in counts:
        write_table(
            args.out / f"questions_{split}.tsv", ("audio", "text", "question", "answer"),
            [(clip_name("questions", split, i), *row) for i, row in enumerate(asked[split])],
        )  # fmt: skip
        write_table(
            args.out / f"mixtures_{split}.tsv", ("audio", "labels"),
            [(clip_name("mixtures", split, i), ",".join(row)) for i, row in enumerate(labels[split])],
        )  # fmt: skip
    for file, names in (("classes.txt", INSTRUMENTS), ("answers.txt", ANSWERS)):
        with atomic_file(args.out / file, concurrent=True) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names))
    baselines = {
        "question_text_only_bound": text_only_bound(
            [text.rpartition("&&&")[::2] for text, *_ in asked["val"]]
        ),
        "answer_text_only_bound": text_only_bound([row[1:] for row in asked["val"]]),
        "mixture_constant_map": round(
            100 * sum(map(len, labels["val"])) / len(INSTRUMENTS) / len(labels["val"]), 2
        ),
    }
    counts_of = {
        split: dict(sorted(Counter(question for _, question, _ in rows).items()))
        for split, rows in asked.items()
    }
    add_results(args.out, {"questions": counts_of, "baselines": baselines})
    print(
        f"{args.out}: {counts['train']} training and {counts['val']} validation questions, and as "
        f"many mixtures. Blind baselines: {baselines['question_text_only_bound']} % of the "
        f"questions with candidates, {baselines['answer_text_only_bound']} % without, "
        f"{baselines['mixture_constant_map']} % mAP."
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/note_questions"))
    parser.add_argument("--notes", type=Path, default=Path("data/gm_instruments"))
    parser.add_argument("--train", type=int, default=2400, help="training clips of each table")
    parser.add_argument("--val", type=int, default=400, help="validation clips of each table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
