"""What a training run stores: one file, or a folder with one file of each process.

In a folder each process has written the rows that it keeps, and the first one whatever is not
sharded too: a whole tensor is the parts one after another, so any number of processes can go on.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmonepeace.atomic_file import atomic_file
from mmonepeace.checkpoint.errors import CheckpointError, prefix_errors

INDEX = "index.json"  # names the files of a folder; without it, the folder was never finished

# Makes a tensor from its parts: one of a file, or the rows of each process.
Take = Callable[[Sequence[Tensor]], Tensor]


def write_run(path: str | Path, content: dict[str, Any]) -> None:
    """Write a file atomically.

    Args:
        path: file to write; it may replace another one.
        content: tensors, numbers, texts and containers of them.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def commit(folder: str | Path, names: Sequence[str]) -> None:
    """Make a checkpoint of the files that all processes have written, and remove older ones.

    Until now the folder was what it had been before: none, or the older checkpoint.

    Args:
        folder: where the files are.
        names: of the files, in the order of the processes.
    """
    folder = Path(folder)
    with atomic_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"files": list(names)}))
    for path in folder.glob("*.pth"):
        if path.name not in names:
            path.unlink()


def is_committed(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint that all processes have finished."""
    return (Path(folder) / INDEX).is_file()


def run_files(path: str | Path) -> list[Path]:
    """Files of a checkpoint: itself, or those of a folder in the order of the processes.

    Raises:
        CheckpointError: if the index or a file is missing, or the index names anything else.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not is_committed(path):
        raise CheckpointError(
            f"the folder has no {INDEX}: it is no checkpoint, or was never finished. Name another."
            if path.is_dir()
            else "no such file."
        )
    try:
        names = list(json.loads((path / INDEX).read_bytes())["files"])
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{INDEX} names no files; the checkpoint is damaged.") from None
    files = []
    for name in map(str, names):
        if Path(name).name != name or "\\" in name or not name.endswith(".pth"):
            raise CheckpointError(f"refused: {name!r} is no torch file beside the index.")
        if not (path / name).is_file():
            raise CheckpointError(
                f"{name} is missing. The work directory must be one that all machines share."
            )
        files.append(path / name)
    return files


def join(parts: Sequence[Tensor]) -> Tensor:
    """The whole tensor, in memory of its own: a file that is mapped may be removed."""
    return parts[0].clone() if len(parts) == 1 else torch.cat(list(parts))


def read_run(path: str | Path, take: Take = join) -> dict[str, Any]:
    """Read all that a run stored: weights, optimiser, schedules, logs.

    Args:
        path: a file or a folder. Files are mapped: what `take` leaves out is not read.
        take: for the tensors of weights and of the optimiser.

    Raises:
        CheckpointError: with one line naming the file, if it is missing or truncated, or holds
            anything but tensors, numbers, texts and containers of them.
    """
    with prefix_errors(path):
        try:
            files = run_files(path)
            parts = [torch.load(f, map_location="cpu", weights_only=True, mmap=True) for f in files]
            content = parts[0]
            merged = {"state_dict": _merge([part["state_dict"] for part in parts], take)}
            if "optimizer" in content:
                states = _merge([part["optimizer"]["state"] for part in parts], take)
                merged["optimizer"] = content["optimizer"] | {"state": states}
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001  (a broken file can fail in any way)
            reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
            raise CheckpointError(
                f"cannot be read, it is truncated or no checkpoint of a training run ({reason})."
            ) from None
    return content | merged


def _merge(values: Sequence[Any], take: Take) -> Any:
    """Nested dictionaries of all processes as one; the first process has all keys."""
    first = values[0]
    if isinstance(first, Tensor):
        return take(values)
    if isinstance(first, dict):
        return {k: _merge([v[k] for v in values if k in v], take) for k in first}
    return first
