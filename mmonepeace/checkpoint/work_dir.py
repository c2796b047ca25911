"""Checkpoints in the work directory of a run: their names, which is the newest, what is left over."""

import logging
import math
import os
import re
import shutil
from pathlib import Path

from mmonepeace.atomic_file import atomic_file
from mmonepeace.checkpoint.errors import CheckpointError
from mmonepeace.checkpoint.training_state import INDEX, is_committed, read_run

NOTE = "last_checkpoint"  # in the work directory: path of the newest checkpoint
_LONGEST_NOTE = 1 << 16  # bytes
_NAME = re.compile(r"(iter|epoch)_(\d+)\.pth")
_CHECKPOINT = re.compile(rf"(best_[^/\\]*)?{_NAME.pattern}")
_PART = re.compile(rf"\.({_CHECKPOINT.pattern}|{NOTE})(\.\d+)?\.part")
_SHARD = re.compile(r"[0-9a-f]{8}-\d{5}\.pth")  # of `write_folder`


def is_checkpoint_name(name: str) -> bool:
    """Whether a file name is one that the hook gives to checkpoints, best ones included."""
    return _CHECKPOINT.fullmatch(name) is not None


def checkpoints_of_run(work_dir: str | Path) -> list[Path]:
    """Checkpoints that the run of a work directory completed, damaged or not, the newest first.

    The files decide. `last_checkpoint` only tells that newer ones belong to an earlier run, or in
    which other folder they are; it may be missing, unreadable, or name a path that the work
    directory had before it was moved.
    """
    folder = Path(work_dir)
    found, noted = _list_checkpoints(folder), read_note(folder)
    if not found and noted:
        found = _list_checkpoints(noted.parent)
    return _of_this_run(found, noted.name if noted else None)


def read_note(work_dir: str | Path) -> Path | None:
    """What `last_checkpoint` names, if it can be read and names a checkpoint."""
    try:
        with Path(work_dir, NOTE).open("rb") as file:
            text = file.read(_LONGEST_NOTE).decode(errors="replace").strip()
        path = Path(text)
        return path if _NAME.fullmatch(path.name) else None
    except (OSError, ValueError):
        return None


def write_note(work_dir: str | Path, path: str | Path) -> None:
    """Note the last checkpoint of a run in its work directory, atomically."""
    note = Path(work_dir, NOTE)
    if note.is_dir():
        try:
            note.rmdir()
        except OSError:  # not ours, and --resume does not need the note
            from mmengine.logging import print_log

            print_log(f"{note} is a folder, so the last checkpoint is not noted.", "current")
            return
    with atomic_file(note) as temporary:
        temporary.write_text(str(path))


def remove_checkpoint(path: Path) -> None:
    """Remove a file or folder, if there is one; a kill leaves no folder that looks complete."""
    if path.is_dir():
        (path / INDEX).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed writes of checkpoints have left in a folder."""
    for path in Path(folder).iterdir():
        if _PART.fullmatch(path.name):
            path.unlink(missing_ok=True)
        elif path.is_dir() and is_checkpoint_name(path.name):
            for part in path.glob(".*.part"):
                part.unlink(missing_ok=True)
            if not is_committed(path) and all(map(_SHARD.fullmatch, os.listdir(path))):
                shutil.rmtree(path)


def _list_checkpoints(folder: Path) -> list[Path]:
    """Those that were completed, the newest first."""
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):  # there is none, or it is garbage in the note
        names = []
    paths = [
        path
        for path in (folder / name for name in names if _NAME.fullmatch(name))
        if path.is_file() or is_committed(path)  # without an index it never was complete
    ]
    kinds = {path.name.partition("_")[0] for path in paths}
    key = _number if len(kinds) <= 1 else _step
    return sorted(paths, key=key, reverse=True)


def _number(path: Path) -> float:
    match = _NAME.fullmatch(path.name)
    return int(match[2]) if match else 0


def _step(path: Path) -> float:
    """Step of a checkpoint, which the name of `epoch_3.pth` does not tell."""
    if path.name.startswith("iter"):
        return _number(path)
    try:
        return int(read_run(path, lambda parts: parts[0], verify=False)["meta"]["iter"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return math.inf  # so that it is tried, and found to be damaged


def _of_this_run(paths: list[Path], noted: str | None) -> list[Path]:
    """The checkpoints that are not newer than the noted one, which belong to an earlier run."""
    names = [path.name for path in paths]
    if noted in names:
        return paths[names.index(noted) :]
    if noted and paths:
        kind = noted.partition("_")[0]
        older = [p for p in paths if p.name.startswith(kind) and _number(p) < _number(Path(noted))]
        from mmengine.logging import print_log

        print_log(
            f"{NOTE} names {noted}, which is not there; the newest of "
            f"{'the older ones' if older else 'the others'} is taken.",
            "current",
            logging.WARNING,
        )
        return older or paths
    return paths
