"""Checkpoints with damaged bytes, given to everything that reads a checkpoint."""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from mmseg.registry import MODELS
from torch import Tensor

from benchmarks.faults.material import STEPS, Journey, make_model
from benchmarks.faults.mutations import mutate
from benchmarks.faults.processes import in_batches, run
from benchmarks.faults.report import Result
from mmonepeace import checkpoint
from mmonepeace.apis import Embedder
from mmonepeace.checkpoint import CheckpointError


class Source(NamedTuple):
    """A healthy checkpoint: its file, the file of it that is damaged, and the recipe of its run."""

    path: Path
    damaged: Path
    readers: tuple[str, ...]
    recipe: Path | None = None
    has_digests: bool = True  # of an official layout: no reader can know what it contained


class Case(NamedTuple):
    source: Source
    seed: tuple[int, ...]


def _segmentor(path: Path, source: Source) -> Any:
    cfg = Config.fromfile(source.recipe)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    checkpoint.load_model(model, path)
    return model.state_dict()


def _embed(path: Path, _: Source) -> Any:
    return Embedder.from_checkpoint(path, device="cpu").model.state_dict()


def _convert(path: Path, _: Source) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.safetensors")
        checkpoint.convert_file(path, out, "full")
        return {name: value.clone() for name, value in checkpoint.read(out)[0].items()}


READERS: dict[str, Callable[[Path, Source], Any]] = {
    "read": lambda path, _: checkpoint.read(path)[0],
    "resume": lambda path, _: checkpoint.verify_run(path) or checkpoint.read_run(path),
    "convert": _convert,
    "test": _segmentor,
    "embed": _embed,
    "mmengine": lambda path, _: CheckpointLoader.load_checkpoint(str(path), "cpu"),
}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


@cache
def _healthy(source: Source, reader: str) -> Any:
    return READERS[reader](source.path, source)


def _try(case: Case) -> list[Result]:
    source, results = case.source, []
    for reader in source.readers:
        _healthy(source, reader)
    with tempfile.TemporaryDirectory() as folder:
        for path in source.path.parent.iterdir():
            if path.is_file():
                Path(folder, path.name).symlink_to(path)
        damaged = Path(folder, source.damaged.name)
        damaged.unlink()
        name, content = mutate(case.seed, source.damaged.read_bytes())
        damaged.write_bytes(content)
        for reader in source.readers:
            group = f"damage: {source.damaged.name} by {reader}"
            results.append(
                _judge(source, reader, Path(folder, source.path.name), group, f"{case.seed} {name}")
            )
    return results


def _judge(source: Source, reader: str, path: Path, group: str, case: str) -> Result:
    try:
        content = READERS[reader](path, source)
    except (CheckpointError, ValueError) as error:  # what tools print in a line
        one_line = len(str(error)) < 2000
        return Result(group, case, "refused" if one_line else "refused at length", one_line)
    except Exception as error:  # noqa: BLE001  (whatever leaks is what is looked for)
        return Result(group, case, f"traceback {type(error).__name__}", False, repr(error)[:300])
    if _equal(content, _healthy(source, reader)):
        return Result(group, case, "unharmed", True)
    return Result(group, case, "taken for whole", not source.has_digests)


def make_sources(journeys: dict[str, Journey], root: Path) -> list[Source]:
    """Checkpoints of two runs and of a model, in several formats."""
    sources = []
    for name, readers in {
        "pretraining": ("read", "resume", "convert", "embed", "mmengine"),
        "segmentation": ("read", "resume", "test", "mmengine"),
    }.items():
        work_dir = root / "damaged" / name
        options = f"default_hooks.checkpoint.interval={STEPS}"
        run(*journeys[name].arguments(work_dir, "--cfg-options", options))
        (work_dir / "run").mkdir()
        path = (work_dir / f"iter_{STEPS}.pth").rename(work_dir / f"run/{name}.pth")
        tokenizer = next(work_dir.glob("*tokenizer*.json"), None)
        if tokenizer:
            (work_dir / "run/tokenizer.json").write_bytes(tokenizer.read_bytes())
        sources.append(Source(path, path, readers, journeys[name].recipe))
    model = make_model(root / "damaged/model")
    readers = ("read", "convert", "embed")
    sources.append(Source(model, model, readers))
    for name, target, kinds in (
        ("official.pt", "official-full", ("read", "convert", "embed")),
        ("vision.pkl", "official-vision", ("read",)),
        ("sharded.safetensors", "full", readers),
    ):
        folder = root / "damaged" / name.split(".")[0]
        folder.mkdir()
        size = 1 << 16 if name.startswith("sharded") else None
        checkpoint.convert_file(model, folder / name, target, size)
        (folder / "tokenizer.json").write_bytes((model.parent / "tokenizer.json").read_bytes())
        if size:
            for file in sorted(folder.glob("sharded*"))[:2] + sorted(folder.glob("*index.json")):
                sources.append(Source(folder / name, file, kinds))
        else:
            sources.append(Source(folder / name, folder / name, kinds, has_digests=False))
    return sources


def try_damages(
    journeys: dict[str, Journey], root: Path, seed: int, count: int
) -> Iterator[Result]:
    """Damage checkpoints: every reader refuses them in a line, or reads what was written."""
    sources = make_sources(journeys, root)
    cases = [Case(sources[i % len(sources)], (seed, i)) for i in range(count)]
    yield from in_batches(_try, sorted(cases, key=lambda case: sources.index(case.source)))
