"""Which checkpoint a user means who names a file or a folder."""

import re
from pathlib import Path

from mmonepeace.checkpoint.errors import CheckpointError
from mmonepeace.checkpoint.training_state import is_committed
from mmonepeace.checkpoint.work_dir import checkpoints_of_run

_SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")


def index_of(path: Path) -> Path:
    """The file that names the shards of a safetensors file (the Hugging Face convention)."""
    return path.with_name(f"{path.name}.index.json")


def find(path: str | Path) -> Path:
    """The checkpoint that a path names: itself, or the newest one of a work directory.

    A folder may also be the sharded checkpoint of a run, or have one file of weights (or the index
    of its shards) in it.

    Raises:
        CheckpointError: if there is none, or a folder has several that are not of one run.
    """
    path = Path(path)
    if path.is_file() or is_committed(path) or (path.is_dir() and path.suffix == ".pth"):
        return path
    if path.suffix == ".safetensors" and index_of(path).is_file():
        return index_of(path)
    if not path.is_dir():
        kinds = ", ".join(_SUFFIXES)
        raise CheckpointError(
            f"{path}: no such file or folder. Name a checkpoint ({kinds}) or a folder with one."
        )
    if of_run := checkpoints_of_run(path):
        return of_run[0]
    indices = sorted(path.glob("*.safetensors.index.json"))
    files = [p for p in sorted(path.iterdir()) if p.suffix in _SUFFIXES and p.is_file()]
    found = indices + [p for p in files if not (indices and _SHARD.fullmatch(p.name))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found[:5])
        raise CheckpointError(f"{path}: has {len(found)} checkpoints ({names}). Name one of them.")
    raise CheckpointError(f"{path}: the folder has no checkpoint ({', '.join(_SUFFIXES)}).")
