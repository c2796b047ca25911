"""What a training run stores: one file, or a folder with one file of each process.

In a folder each process has written its rows of sharded tensors, and the first one everything else
too: a tensor is the concatenation of its parts, so any number of processes can resume.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmonepeace.atomic_file import atomic_file
from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file, prefix_errors

INDEX = "index.json"  # names the files of a folder; without it, the folder is incomplete

# Makes a tensor from its parts: one of a file, or the rows of each process.
Take = Callable[[Sequence[Tensor]], Tensor]


def write_run(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them to a file, atomically."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def commit(folder: str | Path, names: Sequence[str]) -> None:
    """Mark the files that all processes have written as the checkpoint, and remove older ones.

    Their names are in the order of the processes. Until then the folder is what it was: incomplete,
    or the older checkpoint.
    """
    folder = Path(folder)
    with atomic_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"files": list(names)}))
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
        names = [str(name) for name in json.loads((path / INDEX).read_bytes())["files"]]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{INDEX} names no files; the checkpoint is damaged.") from None
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


def read_run(path: str | Path, take: Take = join) -> dict[str, Any]:
    """Read all that a run stored: weights, optimiser, schedules, logs.

    Args:
        path: a file or a folder. Files are mapped: what `take` leaves out is not read.
        take: for the tensors of weights and of the optimiser.

    Raises:
        CheckpointError: with one line naming the file, if it is missing or truncated, or contains
            anything but tensors, numbers, strings and containers of them.
    """
    with prefix_errors(path), explain_broken_file("a checkpoint of a training run"):
        contents = [
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            for file in run_files(path)
        ]
        run = dict(contents[0])
        run["state_dict"] = _merge([content["state_dict"] for content in contents], take)
        if "optimizer" in run:
            states = _merge([content["optimizer"]["state"] for content in contents], take)
            run["optimizer"] = run["optimizer"] | {"state": states}
        return run


def verify_run(path: str | Path) -> None:
    """Check that a checkpoint of a run is complete, undamaged and finite: all of it is read.

    Raises:
        CheckpointError: with one line that names the file and what is wrong with it.
    """
    with prefix_errors(path), explain_broken_file("a checkpoint of a training run"):
        for name in run_files(path):
            with zipfile.ZipFile(name) as file:
                if (damaged := file.testzip()) is not None:
                    raise CheckpointError(f"{damaged} does not match its checksum: damaged.")
    run = read_run(path, join)
    with prefix_errors(path):
        refuse_non_finite(run["state_dict"])


def refuse_non_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError that names the tensors with NaN or infinite numbers, if there are any.

    One pass at the speed of memory: a sum is finite only if all its terms are.
    """
    names = [
        name
        for name, value in weights.items()
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all()
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise CheckpointError(
            f"{len(names)} of {len(weights)} tensors have NaN or infinite numbers: "
            f"{', '.join(names[:3])}{more}. The run had diverged; use an earlier checkpoint."
        )


def _merge(values: Sequence[Any], take: Take) -> Any:
    """Nested dictionaries of all processes as one; the first process has all keys."""
    first = values[0]
    if isinstance(first, Tensor):
        return take(values)
    if isinstance(first, dict):
        return {k: _merge([v[k] for v in values if k in v], take) for k in first}
    return first
