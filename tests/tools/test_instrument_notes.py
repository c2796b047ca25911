"""Notes of the demo data: what is played, how, and what becomes of it. Nothing is downloaded."""

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile

from mmonepeace.datasets.manifest import read_manifest
from tests.conftest import ROOT

TOOLS = ROOT / "tools/dataset_converters"
sys.path.insert(0, str(TOOLS))
import instrument_notes as notes
from downloads import DataError, node_command
from instrument_notes import Clip

# As play_notes.js: a program sounds as a constant, program / 100; the drum kit is silent.
FAKE_PLAYER = """
import json, struct, sys
*_, bank, rate, note, clip = sys.argv[1:]
if open(bank).read() == "damaged":
    sys.exit("no sound bank")
for program, key, velocity in json.load(sys.stdin):
    sys.stdout.buffer.write(struct.pack("f", (program or 0) / 100) * int(clip))
"""

# As js-synthesizer: records what it is told, and plays 1 on the left and 0 on the right.
FAKE_SYNTHESIZER = """
const told = [];
class Synthesizer {
  static initializeWithFluidSynthModule(module) { told.push(module.name); }
  init(rate, options) { told.push(rate, options.reverbActive); }
  async loadSFont(data) { told.push(data.toString()); return 7; }
  getSFontObject(id) { return { getPreset: (bank, program) => program < 50 ? {} : null }; }
  midiProgramSelect(...numbers) { told.push(["program", ...numbers]); }
  midiNoteOn(...numbers) { told.push(["on", ...numbers]); }
  midiNoteOff(...numbers) { told.push(["off", ...numbers]); }
  midiAllSoundsOff(channel) { told.push(["stop", channel]); console.error(JSON.stringify(told)); }
  render([left, right]) { left.fill(told.length); told.push(["render", left.length]); }
}
module.exports = { Synthesizer, waitForReady: async () => {}, disableLogging() {} };
"""


@pytest.fixture
def player(tmp_path, monkeypatch):
    """The fake player, and three banks."""
    fake = tmp_path / "fake_player.py"
    fake.write_text(FAKE_PLAYER)
    monkeypatch.setattr(notes, "node_command", lambda: [sys.executable, str(fake)])
    paths = {}
    for bank in notes.BANKS:
        paths[bank] = tmp_path / f"{bank}.sf2"
        paths[bank].write_text("good")
    packages = {package: paths[bank] for bank, (package, _) in notes.BANKS.items()}
    monkeypatch.setattr(notes, "fetch_player", lambda folder: [])
    monkeypatch.setattr(notes, "fetch_from_debs", lambda files, folder: packages)
    return paths


@pytest.fixture
def build(tmp_path, monkeypatch, player):
    """Run the converter on few clips: all of one kind of each, with one that is silent."""
    clips = [
        Clip("violin", "strings", 40, 60, 100),
        Clip("seashore", "sound effects", 122, 60, 100),
        Clip("cowbell", "drum kit", None, 56, 100),  # the fake has no drums
    ]
    monkeypatch.setattr(notes, "clips_of", lambda split: iter(clips))

    def run():
        out = tmp_path / "out"
        notes.build(argparse.Namespace(out=out, jobs=2, downloads=None))
        return out

    return run


def test_general_midi_is_complete():
    programs = [p for first, labels in notes.INSTRUMENTS.values() for p in range(first, first + 8)]
    assert programs == [*range(80), *range(104, 128)]
    assert all(len(labels) == 8 for _, labels in notes.INSTRUMENTS.values())
    assert len(notes.DRUM_KIT[1]) == 47
    labels = {label for _, labels in notes.INSTRUMENTS.values() for label in labels}
    known = labels | set(notes.DRUM_KIT[1])
    assert len(known) == 151
    for names in (*notes.REGISTERS.values(), notes.WITHOUT_PITCH):
        assert set(names) <= known


def test_both_splits_have_every_sound_and_no_bank_in_common():
    assert not set(notes.SPLITS["train"]) & set(notes.SPLITS["val"])
    train, val = (list(notes.clips_of(split)) for split in ("train", "val"))
    assert len(val) == 343
    assert len(train) == 996
    assert {c.label for c in train} == {c.label for c in val}
    for clips in (train, val):
        assert len({clip.name for clip in clips}) == len(clips)
    per_label = Counter(clip.label for clip in train)
    assert min(per_label.values()) >= 4


@pytest.mark.parametrize(
    ("clip", "name", "caption"),
    [
        (Clip("violin", "", 40, 69, 100), "040_69", "a violin playing the note A 4"),
        (Clip("oboe", "", 68, 60, 100), "068_60", "an oboe playing the note C 4"),
        (Clip("tuba", "", 58, 46, 100), "058_46", "a tuba playing the note A sharp 2"),
        (Clip("seashore", "", 122, 60, 100), "122_60", "the sound of a seashore"),
        (Clip("applause", "", 126, 60, 100), "126_60", "the sound of applause"),
        (Clip("cowbell", "", None, 56, 70), "drum56_70",
         "a hit on the percussion instrument cowbell"),
    ],
)  # fmt: skip
def test_captions_say_what_is_heard(clip, name, caption):
    assert (clip.name, clip.caption) == (name, caption)


def test_a_saved_clip_has_the_rate_length_and_level(tmp_path):
    time = np.arange(round(notes.CLIP_SECONDS * notes.RENDER_RATE)) / notes.RENDER_RATE
    path = tmp_path / "tone.ogg"
    assert notes.save(path, 0.01 * np.sin(2 * np.pi * 440 * time).astype(np.float32))
    notes.check(path)
    sound, rate = soundfile.read(path)
    assert (rate, sound.shape) == (16000, (24000,))
    assert np.abs(sound).max() == pytest.approx(notes.PEAK, abs=0.03)
    strongest = np.abs(np.fft.rfft(sound)).argmax() / notes.CLIP_SECONDS
    assert strongest == pytest.approx(440, abs=1)


def test_silence_is_not_saved(tmp_path):
    assert not notes.save(tmp_path / "none.ogg", np.zeros(48000, np.float32))
    assert not list(tmp_path.iterdir())


def test_sounds_come_in_the_order_of_the_clips(player):
    clips = [Clip("x", "", program, 60, 100) for program in (30, 10, 20)]
    sounds = list(notes.play([], player["gmbank"], clips))
    assert [sound.shape for sound in sounds] == [(48000,)] * 3
    assert [sound[0] for sound in sounds] == pytest.approx([0.3, 0.1, 0.2])


def test_a_player_that_fails_is_an_error_with_its_words(player):
    player["gmbank"].write_text("damaged")
    with pytest.raises(DataError, match=r"gmbank\.sf2 could not be played: no sound bank"):
        list(notes.play([], player["gmbank"], [Clip("x", "", 1, 60, 100)]))


def test_the_data_set_lists_what_sounds(build):
    out = build()
    with (out / "val.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows[0] == {
        "audio": "audio/gmbank/040_60.ogg", "caption": "a violin playing the note C 4",
        "label": "violin", "family": "strings", "midi_note": "60", "sound_bank": "gmbank",
    }  # fmt: skip
    assert [(row["label"], row["midi_note"]) for row in rows[1:]] == [("seashore", "")]
    train = read_manifest(out / "train.tsv", dict(audio="audio", text="caption"))
    assert len(train) == 4
    assert all((out / row["audio"]).is_file() for row in train)


def test_a_second_run_plays_only_what_is_missing(build):
    out = build()
    paths = sorted(out.rglob("*.ogg"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    sound = soundfile.read(paths[0])[0]
    paths[0].write_bytes(paths[0].read_bytes()[:2000])
    with pytest.raises(DataError, match="Run again"):
        build()
    build()
    assert np.array_equal(soundfile.read(paths[0])[0], sound)
    assert all(path.stat().st_mtime_ns == before[path] for path in paths[1:])


def test_other_banks_are_refused(build, player):
    build()
    player["gmbank"].write_text("another")
    with pytest.raises(DataError, match="other banks"):
        build()


def test_the_script_plays_notes_one_after_another(tmp_path):
    synthesizer, module, bank = (tmp_path / name for name in ("synth.js", "module.js", "bank"))
    synthesizer.write_text(FAKE_SYNTHESIZER)
    module.write_text("module.exports = {name: 'module'};")
    bank.write_text("bank")
    done = subprocess.run(
        [*node_command(), TOOLS / "play_notes.js", synthesizer, module, bank, "32000", "48", "64"],
        input=json.dumps([[12, 60, 100], [None, 38, 90], [99, 60, 100]]).encode(),
        capture_output=True, check=True,
    )  # fmt: skip
    sounds = np.frombuffer(done.stdout, np.float32).reshape(3, 64)
    # Both channels' mean; the fake plays the number of things it was told before.
    assert np.array_equal(sounds[0], np.repeat([3, 4], [48, 16]).astype(np.float32))
    assert (sounds[1] > 0).all()
    assert (sounds[2] == 0).all()  # a program that the bank lacks
    told = json.loads(done.stderr.splitlines()[-1])
    assert told[:4] == ["module", 32000, False, "bank"]
    melody, drums = told[4:11], told[11:]
    assert melody == [
        ["program", 0, 7, 0, 12], ["on", 0, 60, 100], ["render", 48], ["off", 0, 60],
        ["render", 16], ["stop", 0], ["render", 64],
    ]  # fmt: skip
    assert drums[:2] == [["program", 9, 7, 128, 0], ["on", 9, 38, 90]]


def test_the_script_reports_errors_in_a_line(tmp_path):
    done = subprocess.run(
        [*node_command(), TOOLS / "play_notes.js", tmp_path / "none.js", "x", "y", "1", "1", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Cannot find module" in done.stderr
    assert "    at " not in done.stderr
