"""Checkpoints that contain code, given to every tool and every function that reads one."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mmengine
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from mmseg.apis import init_model
from mmseg.registry import MODELS

from benchmarks.faults.material import Journey, hostile_files, make_model
from benchmarks.faults.mutations import draw
from benchmarks.faults.processes import in_batches, in_parallel, judge, run
from benchmarks.faults.report import Result
from mmonepeace import checkpoint
from mmonepeace.apis import Embedder

Command = Callable[[Path, Path], list[Any]]  # file and scratch folder -> command line


class Case(NamedTuple):
    """A file, the reader that gets it, and the folder that appears if its code runs."""

    reader: str
    file: Path
    marker: Path
    recipe: Path


def _init_cfg(file: Path, recipe: Path, part: str) -> None:
    cfg = Config.fromfile(recipe)
    init_default_scope(cfg.default_scope)
    node = cfg.model if part == "model" else cfg.model[part]
    node.init_cfg = dict(type="Pretrained", checkpoint=str(file))
    MODELS.build(cfg.model).init_weights()


def _load(file: Path, recipe: Path) -> None:
    cfg = Config.fromfile(recipe)
    init_default_scope(cfg.default_scope)
    load_checkpoint(MODELS.build(cfg.model), str(file))


FUNCTIONS: dict[str, Callable[[Path, Path], Any]] = {
    "checkpoint.read": lambda file, _: checkpoint.read(file),
    "checkpoint.read_run": lambda file, _: checkpoint.read_run(file),
    "Embedder": lambda file, _: Embedder.from_checkpoint(file),
    "mmengine load_checkpoint": _load,
    "mmengine CheckpointLoader": lambda file, _: CheckpointLoader.load_checkpoint(str(file)),
    "mmengine.load": lambda file, _: mmengine.load(str(file), file_format="pkl"),
    "mmseg init_model": lambda file, recipe: init_model(str(recipe), str(file), device="cpu"),
    "model.init_cfg": partial(_init_cfg, part="model"),
    "backbone.init_cfg": partial(_init_cfg, part="backbone"),
    "decode_head.init_cfg": partial(_init_cfg, part="decode_head"),
}


def _call(case: Case) -> list[Result]:
    outcome = "read"
    try:
        FUNCTIONS[case.reader](case.file, case.recipe)
    except Exception as error:  # noqa: BLE001  (refusing in any way is fine here)
        outcome = "refused" if isinstance(error, checkpoint.CheckpointError) else "failed"
    return [_result(f"hostile file: {case.reader}", case.file.name, outcome, True, case.marker)]


def _result(
    group: str, name: str, outcome: str, held: bool, marker: Path, detail: str = ""
) -> Result:
    if marker.exists():
        marker.rmdir()
        return Result(group, name, "EXECUTED", False, detail)
    return Result(group, name, outcome, held, detail)


def _resumed(journey: Journey, file: Path, scratch: Path) -> list[Any]:
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, scratch / "iter_3.pth")
    (scratch / "last_checkpoint").write_text(str(scratch / "iter_3.pth"))
    return journey.arguments(scratch, "--resume")


def commands(journeys: dict[str, Journey], model: Path) -> dict[str, Command]:
    """Name -> command line of a tool that is given the file."""
    seg, pre = journeys["segmentation"], journeys["pretraining"]
    pairs = Path(pre.options[1])
    text: list[Any] = ["--texts", pairs / "train.tsv"]

    def option(journey: Journey, text: str) -> Command:
        return lambda f, s: journey.arguments(s, "--cfg-options", text.format(f))

    def pretrained_head(file: Path, scratch: Path) -> list[Any]:
        recipe = file.with_suffix(".py")
        init_cfg = dict(type="Pretrained", checkpoint=str(file))
        recipe.write_text(
            f"_base_ = [{str(seg.recipe)!r}]\nmodel = dict(decode_head=dict(init_cfg={init_cfg!r}))"
        )
        return replace(seg, recipe=recipe).arguments(scratch)

    tools: dict[str, Command] = {
        "train --checkpoint": lambda f, s: seg.arguments(s, "--checkpoint", f),
        "train --resume PATH": lambda f, s: seg.arguments(s, "--resume", f),
        "train --resume": partial(_resumed, seg),
        "train load_from": option(seg, "load_from={}"),
        "train decode_head.init_cfg": pretrained_head,
        "pretrain --resume PATH": lambda f, s: pre.arguments(s, "--resume", f),
        "pretrain --resume": partial(_resumed, pre),
        "pretrain load_from": option(pre, "load_from={}"),
    }
    dry = {
        f"{name} --dry-run": lambda f, s, make=make: [*make(f, s), "--dry-run"]
        for name, make in tools.items()
    }
    others: dict[str, Command] = {
        "test": lambda f, s: ["test.py", seg.recipe, f, *seg.options, "--work-dir", s],
        "show_predictions": lambda f, s: [
            "show_predictions.py", seg.recipe, f, *seg.options, "--out", s.with_suffix(".png"),
        ],
        "embed": lambda f, s: ["embed.py", f, *text, "--out", s.with_suffix(".safetensors")],
        "zero_shot": lambda f, s: ["zero_shot.py", f, "--images", pairs, "--classes", "a,b"],
        "convert": lambda f, s: [
            "convert_checkpoint.py", f, s.with_suffix(".safetensors"), "--to", "full",
        ],
        "heatmap": lambda f, s: ["heatmap.py", f, pairs / "0.png", "--text", "a"],
    }  # fmt: skip
    return {**tools, **dry, **others}


def try_hostile(
    journeys: dict[str, Journey], root: Path, seed: int, scale: float
) -> Iterator[Result]:
    """Give files with code to all readers: none runs it, and tools refuse them in a line."""
    model = make_model(root / "model")
    marker = root / "markers"
    marker.mkdir(parents=True)
    weights = checkpoint.read(model)[0]
    recipe = journeys["segmentation"].recipe
    cases = []
    for reader in FUNCTIONS:
        name = reader.replace(" ", "_")
        folder = marker / name
        for file in hostile_files(root / name, weights, folder):
            cases.append(Case(reader, file, folder, recipe))
    cases = draw(cases, seed, scale)
    yield from in_batches(_call, cases, len(cases) // 2 + 1)

    def attempt(item: tuple[str, Command, int]) -> Result:
        name, make, number = item
        folder = root / f"tool_{name.replace(' ', '_')}_{number}"
        appears = marker / folder.name
        file = hostile_files(folder / "files", weights, appears)[number]
        arguments = make(file, folder / "scratch")
        done = run(*arguments)
        outcome, held = judge(done)
        return _result(f"hostile file: {name}", file.name, outcome, held, appears, done.stderr)

    tools = commands(journeys, model)
    tries = [(name, make, number) for name, make in tools.items() for number in (0, 1, 5)]
    yield from in_parallel(attempt, draw(tries, seed, scale))
