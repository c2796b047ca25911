"""Build tables of images and of sounds that share names, so that sound may find images.

Run:    python tools/dataset_converters/common_names.py --emoji data/emoji \\
            --notes data/gm_instruments --out data/common_names
Needs:  the folders of emoji_pairs.py and instrument_notes.py; if there are, with --esc10 and --digits,
        clips of ESC-10 and of the Free Spoken Digit Dataset: {train,val}.tsv with the columns audio and
        label in each
Makes:  OUT/images_{train,val}.tsv, drawings of what has a sound, with the columns image and caption;
        OUT/other_images_train.tsv, all other drawings of training;
        OUT/sounds_{train,val}.tsv with the columns audio, caption and label: the caption is the name of
        the drawings, "drum" for a low tom, the label that of the sound; in train, clips of rare
        names are repeated;
        OUT/sounds_train_shuffled.tsv, the same clips and captions in another order, as a control;
        OUT/sound_to_picture.tsv, clips and drawings of val, with the columns audio, image, text, label;
        OUT/meta.json

No table of training has an image together with a sound: what a model knows of both, it knows through
their names. Artists, sound banks, recordings and takes of val are not in train. The same seed gives the
same order of the control.
"""

import argparse
import csv
import os
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    from downloads import DataError, check_meta, run_converter, write_meta, write_table
    from instrument_notes import INSTRUMENTS

# Name of a drawing -> labels of the sounds that it makes, set by set.
SOUNDS = {
    "notes": {
        "musical keyboard": (
            "acoustic grand piano", "bright acoustic piano", "electric grand piano",
            "honky-tonk piano", "electric piano 1", "electric piano 2",
        ),
        "guitar": INSTRUMENTS["guitar"][1],
        "violin": ("violin", "viola", "fiddle"),
        "trumpet": ("trumpet", "muted trumpet"),
        "postal horn": ("french horn",),
        "saxophone": ("soprano sax", "alto sax", "tenor sax", "baritone sax"),
        "drum": (
            "taiko drum", "melodic tom", "acoustic snare", "electric snare", "low floor tom",
            "high floor tom", "low tom", "low-mid tom", "hi-mid tom", "high tom",
        ),
        "bell": ("tubular bells", "tinkle bell"),
        "clapping hands": ("applause", "hand clap"),
        "telephone": ("telephone ring",),
        "helicopter": ("helicopter",),
        "bird": ("bird tweet",),
        "water wave": ("seashore",),
    },
    "esc10": {
        "dog": ("dog bark",),
        "rooster": ("rooster",),
        "cloud with rain": ("rain",),
        "water wave": ("sea waves",),
        "baby": ("baby cry",),
        "fire": ("fire crackling",),
        "helicopter": ("helicopter",),
        "sneezing face": ("person sneeze",),
        "mantelpiece clock": ("clock tick",),
    },
    "digits": {
        f"keycap: {digit}": (word,)
        for digit, word in enumerate(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        )
    },
}  # fmt: skip

Pair = tuple[str, str]
Sound = tuple[str, str, str]


def read_table(folder: Path, split: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a table.

    Raises:
        DataError: if it, or one of the columns, is missing.
    """
    path = folder / f"{split}.tsv"
    if not path.is_file():
        raise DataError(f"{path} is missing. Give the folder that has {{train,val}}.tsv.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        known = reader.fieldnames or []
        if missing := set(columns) - set(known):
            raise DataError(
                f"{path} has no column {', '.join(sorted(missing))}, but {', '.join(known)}."
            )
        return list(reader)


def read_images(folder: Path, split: str, out: Path) -> list[Pair]:
    """(path from `out`, name) of each drawing."""
    rows = read_table(folder, split, ("image", "caption"))
    return [(relative(folder / row["image"], out), row["caption"]) for row in rows]


def read_sounds(folders: dict[str, Path], split: str, out: Path) -> list[Sound]:
    """(path from `out`, name of the drawings, label) of each clip that has a drawing.

    Raises:
        DataError: if a set has none of its labels.
    """
    sounds = []
    for kind, folder in folders.items():
        name_of = {label: name for name, labels in SOUNDS[kind].items() for label in labels}
        rows = read_table(folder, split, ("audio", "label"))
        found = [
            (relative(folder / row["audio"], out), name_of[row["label"]], row["label"])
            for row in rows
            if row["label"] in name_of
        ]
        if missing := set(SOUNDS[kind]) - {name for _, name, _ in found}:
            labels = sorted(label for name in missing for label in SOUNDS[kind][name])
            raise DataError(f"{folder}/{split}.tsv has no sound with the label {labels[0]!r}.")
        sounds += found
    return sounds


def relative(path: Path, out: Path) -> str:
    """A path as tables have it, from their folder."""
    return os.path.relpath(path, out).replace(os.sep, "/")


def balance(sounds: list[Sound]) -> list[Sound]:
    """Clips of rare names several times, so that each name has about as many rows."""
    counts = Counter(name for _, name, _ in sounds)
    most = max(counts.values())
    return [row for row in sounds for _ in range(round(most / counts[row[1]]))]


def shuffle_captions(sounds: list[Sound], seed: int) -> list[Sound]:
    """The same clips, each with the caption and label of another one, at random."""
    order = random.Random(seed).sample(range(len(sounds)), len(sounds))
    return [(path, *sounds[other][1:]) for (path, _, _), other in zip(sounds, order, strict=True)]


def build(args: argparse.Namespace) -> None:
    """Write all tables."""
    out = args.out
    folders = {"notes": args.notes, "esc10": args.esc10, "digits": args.digits}
    folders = {kind: folder for kind, folder in folders.items() if folder}
    used = {kind: relative(folder, out) for kind, folder in folders.items()}
    meta = {"emoji": relative(args.emoji, out), "sounds": used, "seed": args.seed}
    write_meta(out, check_meta(out, meta, "options"))
    names = {name for kind in folders for name in SOUNDS[kind]}
    sounds = {split: read_sounds(folders, split, out) for split in ("train", "val")}
    clips = len(sounds["train"])
    sounds["train"] = balance(sounds["train"])
    images = {split: read_images(args.emoji, split, out) for split in ("train", "val")}
    of_names = {split: [row for row in rows if row[1] in names] for split, rows in images.items()}
    for split, rows in of_names.items():
        if missing := sorted(names - {name for _, name in rows}):
            raise DataError(f"{args.emoji}/{split}.tsv has no drawing of {missing[0]!r}.")
    others = [row for row in images["train"] if row[1] not in names]
    counts = Counter(name for _, name in of_names["val"])
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{args.emoji}/val.tsv has {repeated[0]!r} more than once.")
    picture_of = {name: path for path, name in of_names["val"]}

    for split in ("train", "val"):
        write_table(out / f"images_{split}.tsv", ("image", "caption"), of_names[split])
        write_table(out / f"sounds_{split}.tsv", ("audio", "caption", "label"), sounds[split])
    write_table(out / "other_images_train.tsv", ("image", "caption"), others)
    write_table(
        out / "sounds_train_shuffled.tsv",
        ("audio", "caption", "label"),
        shuffle_captions(sounds["train"], args.seed),
    )
    pairs = [(audio, picture_of[name], name, label) for audio, name, label in sounds["val"]]
    write_table(out / "sound_to_picture.tsv", ("audio", "image", "text", "label"), pairs)
    print(
        f"{out}: {len(names)} names; {len(of_names['train'])} drawings and {clips} clips "
        f"of them to train, {len(of_names['val'])} and {len(sounds['val'])} to measure."
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--emoji", type=Path, required=True, help="folder of emoji_pairs.py")
    parser.add_argument("--notes", type=Path, required=True, help="folder of instrument_notes.py")
    parser.add_argument("--esc10", type=Path, help="folder of environmental sounds")
    parser.add_argument("--digits", type=Path, help="folder of spoken digits")
    parser.add_argument("--out", type=Path, default=Path("data/common_names"))
    parser.add_argument("--seed", type=int, default=0, help="of the control's order")
    args = parser.parse_args()
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
