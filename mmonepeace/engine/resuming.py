"""Checkpoints of a training run: how they are written, and which one to resume from."""

import logging
import secrets
import shutil
from collections.abc import Callable, Mapping
from functools import cache
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


def leave_out_objects(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a dictionary's values that `to_serializable` takes; others are named in the log.

    For what data sets and hooks of any library note: none of it is needed to resume.
    """
    kept = {}
    for name, value in values.items():
        try:
            to_serializable(value, lambda tensor: tensor)
        except TypeError:
            _say_left_out(name)
        else:
            kept[name] = value
    return kept


@cache
def _say_left_out(name: str) -> None:
    text = f"checkpoints leave out {name}, which has more than tensors, numbers and strings."
    print_log(text, "current")


def verify(path: str | Path) -> None:
    """Read all of a checkpoint, in the first process for all.

    Raises:
        CheckpointError: in all processes, if it is damaged, not finite, or none of a run.
    """
    reason = [_find_damage(Path(path)) if is_main_process() else None]
    broadcast_object_list(reason)
    if reason[0]:
        raise CheckpointError(f"{path}: {reason[0]}")


def find_latest_valid_checkpoint(work_dir: str | Path) -> str | None:
    """The newest checkpoint of a run that is not damaged, or None; the same on all processes.

    See `checkpoint.checkpoints_of_run`.

    Raises:
        CheckError: if all are damaged, or none is left of those that `last_checkpoint` names:
            starting from scratch would in time remove them.
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
    paths = checkpoint.checkpoints_of_run(folder)
    reasons = []
    for path in paths:
        if (reason := _find_damage(path)) is None:
            return str(path), None
        print_log(f"{path} is damaged: {reason}", "current", logging.WARNING)
        reasons.append(f"{path.name} ({reason})")
    if paths:
        return None, (
            f"all checkpoints in {paths[0].parent} are damaged: {', '.join(reasons)}. Nothing was "
            "changed. Restore a copy of one of them, or resume from another one: --resume PATH. To "
            "start from scratch, move them away or choose another --work-dir."
        )
    if noted := checkpoint.read_note(folder):
        return None, (
            f"last_checkpoint of {folder} names {noted}, but neither it nor another checkpoint is "
            "there. Nothing was changed. Restore it, or resume from another one: --resume PATH. To "
            "start from scratch, remove last_checkpoint or choose another --work-dir."
        )
    print_log(f"there is no checkpoint in {folder}; the run starts from scratch.", "current")
    return None, None


def _find_damage(path: Path) -> str | None:
    """Why a checkpoint cannot be resumed, or None."""
    try:
        checkpoint.verify_run(path)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")
    return None
