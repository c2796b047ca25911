"""What a training run stores: one file, or a folder with one file of each process.

In a folder each process has written its rows of sharded tensors, and the first one everything else
too: a tensor is the concatenation of its parts, so any number of processes can resume.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmonepeace.atomic_file import atomic_file
from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file, prefix_errors
from mmonepeace.checkpoint.integrity import (
    CHECKSUMS,
    check_tensors,
    checksums,
    hash_of_rest,
    refuse_non_finite,
    verify_checksums,
)
from mmonepeace.checkpoint.torch_files import read_torch, verify_archive
from mmonepeace.checkpoint.unpickling import History, Inert, leaves_of, tensors_of

INDEX = "index.json"  # names the files of a folder; without it, the folder is incomplete

# Makes a tensor from its parts: one of a file, or the rows of each process.
Take = Callable[[Sequence[Tensor]], Any]


def write_run(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them to a file, atomically.

    With them go their checksums (1 GB takes 0.2 s with two processors), see `integrity`.
    """
    content = {**content, CHECKSUMS: checksums(content)}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def commit(folder: str | Path, names: Sequence[str]) -> None:
    """Mark the files that all processes have written as the checkpoint, and remove older ones.

    Their names are in the order of the processes. Until then the folder is what it was: incomplete,
    or the older checkpoint.
    """
    folder = Path(folder)
    with atomic_file(folder / INDEX) as temporary:
        index = {"files": list(names), "checksum": hash_of_rest(list(names))}
        temporary.write_text(json.dumps(index))
    for path in folder.glob("*.pth"):
        if path.name not in names:
            path.unlink()


def is_committed(folder: str | Path) -> bool:
    """Whether all processes have finished the checkpoint in a folder."""
    return (Path(folder) / INDEX).is_file()


def run_files(path: str | Path) -> list[Path]:
    """Files of a checkpoint: itself, or those of a folder in the order of the processes.

    Raises:
        CheckpointError: if the index or a file is missing, or the index names anything else.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError("no such file.")
    if not is_committed(path):
        raise CheckpointError(f"the folder has no {INDEX}: incomplete, or not a checkpoint.")
    try:
        index = json.loads((path / INDEX).read_bytes())
        names = [str(name) for name in index["files"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{INDEX} names no files; the checkpoint is damaged.") from None
    if index.get("checksum", expected := hash_of_rest(names)) != expected or not names:
        raise CheckpointError(f"{INDEX} does not match its checksum: damaged.")
    return [find_beside(path / INDEX, name, ".pth") for name in names]


def find_beside(index: Path, name: str, suffix: str) -> Path:
    """File that an index names: refused unless it is in the same folder and has the suffix."""
    if Path(name).name != name or "\\" in name or not name.endswith(suffix):
        raise CheckpointError(f"refused: {name!r} is not a {suffix} file beside the index.")
    if not (path := index.with_name(name)).is_file():
        raise CheckpointError(
            f"{name} is missing beside {index.name}. All machines of a run must share its folder."
        )
    return path


def join(parts: Sequence[Tensor]) -> Tensor:
    """The complete tensor, in memory of its own: a file that is mapped may be removed."""
    return parts[0].clone() if len(parts) == 1 else torch.cat(list(parts))


def read_run(path: str | Path, take: Take = join, verify: bool = True) -> dict[str, Any]:
    """Read all that a run stored: weights, optimiser, schedules, logs.

    Args:
        path: a file or a folder. Files are mapped: what `take` leaves out is not read.
        take: for the tensors of weights and of the optimiser.
        verify: compare everything with its checksums, at 2 GB/s for each processor or the speed of
            the disk; False if it has been done.

    Raises:
        CheckpointError: with one line naming the file, if it is missing, truncated or damaged, or
            contains anything but tensors, numbers, strings and containers of them.
    """
    with prefix_errors(path), explain_broken_file("a checkpoint of a training run"):
        contents = [_read_part(file, verify) for file in run_files(path)]
        run = dict(contents[0])
        run["state_dict"] = _merge([content["state_dict"] for content in contents], take)
        if "optimizer" in run:
            states = _merge([content["optimizer"]["state"] for content in contents], take)
            run["optimizer"] = run["optimizer"] | {"state": states}
        return run


def _read_part(path: Path, verify: bool) -> dict[str, Any]:
    content = read_torch(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError("it has no state_dict")
    stored = content.pop(CHECKSUMS, None)
    check_tensors(tensors_of(content))
    logs = (content.get("message_hub") or {}).get("log_scalars") or {}
    for key, log in logs.items():
        if isinstance(log, History):  # as MMEngine's runner stores it
            logs[key] = [torch.as_tensor(values) for values in log.data]
    if strange := next((k for k, v in leaves_of(content) if isinstance(v, Inert)), None):
        raise CheckpointError(f"{strange} is of a class that is not read from files")
    if verify and stored is None:
        verify_archive(path)
    elif verify:
        verify_checksums(content, stored)
    return content


def verify_run(path: str | Path) -> None:
    """Check that a checkpoint of a run is complete, undamaged and finite: all of it is read.

    Raises:
        CheckpointError: with one line that names the file and what is wrong with it.
    """
    with prefix_errors(path), explain_broken_file("a checkpoint of a training run"):
        for file in run_files(path):
            content = _read_part(file, verify=True)
            refuse_non_finite(content["state_dict"])
            refuse_non_finite(tensors_of({"optimizer": content.get("optimizer")}))


def _merge(values: Sequence[Any], take: Take) -> Any:
    """Nested dictionaries of all processes as one; the first process has all keys."""
    first = values[0]
    if isinstance(first, Tensor):
        return take(values)
    if isinstance(first, dict):
        return {k: _merge([v[k] for v in values if k in v], take) for k in first}
    return first
