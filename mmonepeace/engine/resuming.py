"""Checkpoints of a training run: how they are written, and which one to resume from."""

import logging
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, broadcast_object_list, get_rank, get_world_size, is_main_process
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checks import CheckError

_STEP = re.compile(r"iter_(\d+)\.pth")


def write_file(path: Path, content: dict[str, Any]) -> None:
    """Write a file, in the first process only."""
    if is_main_process():
        if path.is_dir():  # of an earlier run
            shutil.rmtree(path)
        checkpoint.write_run(path, content)


def write_folder(folder: Path, content: dict[str, Any]) -> None:
    """Write a folder together with all other processes, one file each."""
    token = [secrets.token_hex(4)]  # an older checkpoint in the folder stays valid till then
    broadcast_object_list(token)
    names = [f"{token[0]}-{rank:05}.pth" for rank in range(get_world_size())]
    if is_main_process():
        if folder.is_file():  # of an earlier run
            folder.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    barrier()
    checkpoint.write_run(folder / names[get_rank()], content)
    barrier()
    if is_main_process():
        checkpoint.commit(folder, names)
    barrier()


def to_serializable(value: Any, store: Callable[[Tensor], Tensor | None]) -> Any:
    """Tensors, numbers, strings and containers of them, which are read without pickle.

    `store` gives what is written of a tensor; None leaves it out.
    """
    if isinstance(value, Tensor):
        return store(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, HistoryBuffer):
        return [torch.from_numpy(values) for values in value.data]
    if isinstance(value, Mapping):
        items = {key: to_serializable(item, store) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None or value[key] is None}
    if isinstance(value, list | tuple):
        items = [to_serializable(item, store) for item in value]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"a checkpoint cannot hold {value!r} ({type(value).__name__}), only tensors, numbers, "
        "strings, and lists and dictionaries of them. Correct the hook or the data set that put "
        "it into the message hub or the metadata."
    )


def find_latest_valid_checkpoint(work_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that is not damaged, or None; the same on all processes.

    Files that are newer than the run's `last_checkpoint` belong to an earlier run.

    Raises:
        CheckError: if all are damaged: starting from scratch would in time remove them.
    """
    result: list[str | None] = [None, None]
    if is_main_process():
        result = list(_newest_valid(Path(work_dir)))
    broadcast_object_list(result)
    path, problem = result
    if problem:
        raise CheckError(problem)
    return path


def _newest_valid(folder: Path) -> tuple[str | None, str | None]:
    """(path, None), (None, what is wrong), or (None, None) if there is no checkpoint."""
    steps = {
        int(match[1]): path
        for path in folder.glob("iter_*.pth")
        # A folder without an index was never completed.
        if (match := _STEP.fullmatch(path.name))
        and (path.is_file() or checkpoint.is_committed(path))
    }
    note = folder / "last_checkpoint"
    named = _STEP.search(note.read_text()) if note.is_file() else None
    last = int(named[1]) if named else max(steps, default=0)
    paths = [steps[step] for step in sorted(steps, reverse=True) if step <= last]
    for path in paths:
        if _is_valid(path):
            return str(path), None
        print_log(f"{path} is damaged; trying the one before it.", "current", logging.WARNING)
    if paths:
        names = ", ".join(path.name for path in paths)
        return None, (
            f"all checkpoints in {folder} are damaged: {names}. Nothing was changed. Restore a "
            "copy of one of them, or resume from another one: --resume PATH. To start from "
            "scratch, move them away or choose another --work-dir."
        )
    print_log(f"there is no checkpoint in {folder}; the run starts from scratch.", "current")
    return None, None


def _is_valid(path: Path) -> bool:
    """Whether all files of a checkpoint are complete and match their checksums."""
    try:
        for name in checkpoint.run_files(path):
            with zipfile.ZipFile(name) as file:
                if file.testzip() is not None:
                    return False
    except (CheckpointError, zipfile.BadZipFile, OSError, EOFError):
        return False
    return True
