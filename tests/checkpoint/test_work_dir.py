import os
import shutil

import pytest
import torch

from mmonepeace import checkpoint


def write(folder, name, step):
    content = {"state_dict": {"x": torch.tensor(float(step))}, "meta": {"iter": step}}
    checkpoint.write_run(folder / name, content)


@pytest.fixture
def run(tmp_path):
    """A work directory with three checkpoints, and one that is the best."""
    for step in (5, 10, 15):
        write(tmp_path, f"iter_{step}.pth", step)
    write(tmp_path, "best_recall_iter_20.pth", 20)
    checkpoint.write_note(tmp_path, tmp_path / "iter_15.pth")
    return tmp_path


def names(folder):
    return [path.name for path in checkpoint.checkpoints_of_run(folder)]


def numbers(folder):
    return [int(name.split("_")[1].removesuffix(".pth")) for name in names(folder)]


def test_the_newest_comes_first_by_number(run):
    write(run, "iter_100.pth", 100)
    checkpoint.write_note(run, "/elsewhere/before/it/was/moved/iter_100.pth")
    assert numbers(run) == [100, 15, 10, 5]
    assert checkpoint.read_note(run).name == "iter_100.pth"


def test_newer_ones_than_the_noted_belong_to_an_earlier_run(run):
    checkpoint.write_note(run, run / "iter_10.pth")
    assert numbers(run) == [10, 5]
    (run / "iter_10.pth").unlink()
    assert numbers(run) == [5]


def test_if_the_noted_is_gone_and_all_are_newer_they_are_no_loss(run, monkeypatch):
    said = []
    monkeypatch.setattr("mmengine.logging.print_log", lambda text, *_: said.append(text))
    checkpoint.write_note(run, run / "iter_2.pth")
    assert numbers(run) == [15, 10, 5]
    (text,) = said
    assert "iter_2.pth, which is not there; the newest of the others" in text


NOTES = {
    "missing": lambda note: None,
    "empty": lambda note: note.write_bytes(b""),
    "garbage": lambda note: note.write_text("iter_10.pth of\nsomething iter_"),
    "not UTF-8": lambda note: note.write_bytes(b"\xff\xfe\x00iter_5.pth\x80"),
    "zeros": lambda note: note.write_bytes(bytes(100)),
    "a folder": lambda note: note.mkdir(),
    "too long": lambda note: note.write_text("/" + "x" * 5000 + "/x.pth"),
    "another kind": lambda note: note.write_text("/a/best_mIoU_iter_20.pth"),
}


@pytest.mark.parametrize("kind", NOTES)
def test_the_note_may_be_anything(run, kind):
    note = run / "last_checkpoint"
    note.unlink()
    NOTES[kind](note)
    assert numbers(run) == [15, 10, 5]
    checkpoint.write_note(run, run / "iter_15.pth")
    assert note.read_text() == str(run / "iter_15.pth")


def test_a_folder_of_others_in_place_of_the_note_is_left_alone(run):
    (run / "last_checkpoint").unlink()
    (run / "last_checkpoint").mkdir()
    (run / "last_checkpoint/kept").write_text("")
    checkpoint.write_note(run, run / "iter_15.pth")
    assert (run / "last_checkpoint/kept").exists()


def test_the_note_of_a_path_that_cannot_exist_finds_nothing(tmp_path):
    for parent in ("x" * 5000, "a\0b"):
        (tmp_path / "last_checkpoint").write_text(f"/{parent}/iter_3.pth")
        assert names(tmp_path) == []
        assert checkpoint.read_note(tmp_path).name == "iter_3.pth"


def test_checkpoints_may_be_in_the_other_folder_that_the_note_names(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("work")
    shutil.copy(run / "last_checkpoint", other)
    assert [path.parent for path in checkpoint.checkpoints_of_run(other)] == [run] * 3


def test_steps_decide_between_epochs_and_steps(run):
    write(run, "epoch_1.pth", 7)
    write(run, "epoch_2.pth", 14)
    (run / "last_checkpoint").unlink()
    expected = ["iter_15.pth", "epoch_2.pth", "iter_10.pth", "epoch_1.pth", "iter_5.pth"]
    assert names(run) == expected
    (run / "epoch_1.pth").write_bytes(b"damaged")
    assert names(run)[0] == "epoch_1.pth"  # to be told so
    for path in run.glob("iter_*.pth"):
        path.unlink()
    assert names(run) == ["epoch_2.pth", "epoch_1.pth"]


def test_leftovers_of_killed_writes_are_removed_and_nothing_else(run):
    kept = {path.name for path in run.iterdir()} | {".notes.part", "other.pth.part", "iter_9.pth"}
    for name in (".iter_20.pth.part", ".best_a_iter_3.pth.part", ".last_checkpoint.part",
                 ".iter_20.pth.77.part", ".notes.part", "other.pth.part"):  # fmt: skip
        (run / name).write_bytes(b"half")
    for name, files in {
        "iter_20.pth": ["0123abcd-00000.pth", ".0123abcd-00001.pth.part"],
        "iter_25.pth": ["0123abcd-00000.pth"],
        "iter_9.pth": ["of_a_user.txt"],
    }.items():
        (run / name).mkdir()
        for file in files:
            (run / name / file).write_bytes(b"half")
    checkpoint.remove_leftovers(run)
    assert {path.name for path in run.iterdir()} == kept
    assert os.listdir(run / "iter_9.pth") == ["of_a_user.txt"]


def test_a_complete_folder_stays_and_goes_index_first(run, monkeypatch):
    folder = run / "iter_20.pth"
    folder.mkdir()
    write(folder, "0123abcd-00000.pth", 20)
    (folder / ".89abcdef-00000.pth.part").write_bytes(b"half")
    checkpoint.commit(folder, ["0123abcd-00000.pth"])
    (run / "last_checkpoint").unlink()
    checkpoint.remove_leftovers(run)
    assert sorted(os.listdir(folder)) == ["0123abcd-00000.pth", "index.json"]
    assert numbers(run)[0] == 20
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path: None)  # killed here
        checkpoint.remove_checkpoint(folder)
    assert numbers(run)[0] == 15
    checkpoint.remove_checkpoint(folder)
    checkpoint.remove_checkpoint(run / "iter_15.pth")
    checkpoint.remove_checkpoint(run / "iter_15.pth")  # which is gone already
    assert names(run) == ["iter_10.pth", "iter_5.pth"]


@pytest.mark.parametrize("name", ["iter_1.pth", "epoch_12.pth", "best_coco_bbox_mAP_iter_3.pth"])
def test_names_of_the_hook(name):
    assert checkpoint.is_checkpoint_name(name)


@pytest.mark.parametrize(
    "name", ["../iter_1.pth", "best_/../x/iter_3.pth", "/iter_1.pth", "iter_1.pth.py", "iter_.pth", ""]
)  # fmt: skip
def test_other_names_are_not(name):
    assert not checkpoint.is_checkpoint_name(name)
