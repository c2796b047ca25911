"""What the tiny recipes reach on small real data, from scratch, and how long that takes.

Run:    python benchmarks/recipes.py --data-root DIR [--only labelmefacade bccd] [--seeds 0 1 2]
        ... --split test    measures on another split than val, with the same layout; recipes that
        leave rows of train.tsv out measure on these
Needs:  DIR/NAME for each recipe, laid out as its config says. The sets of the demos are made by
        tools/dataset_converters/{emoji_scenes,emoji_objects}.py
Makes:  WORK_DIR/REPORT.md, to be kept as benchmarks/recipes_HARDWARE_DATE.md

Each run is a process of its own, which trains by the recipe without validation, then measures the
last weights. Time is given in T: 600 training steps of a plain segmentor (ONE-PEACE tiny of 12
blocks with UPerNet, 16 crops of 128 px), timed on the same machine just before.
"""

import argparse
import copy
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmonepeace import checks
from mmonepeace.checkpoint import find
from mmonepeace.engine import run_options
from mmonepeace.registry import MODELS, RUNNERS

_YARDSTICK_STEPS = 600


class Recipe(NamedTuple):
    """A recipe and what it should reach.

    Attributes:
        config: file in configs/tiny.
        data: folder in the root of the data.
        targets: name of a score in the log -> (label, value to reach, in per cent; None: none).
        budget: of its training, in T.
        captions: tables and columns that its tokenizer is trained on, if it reads text.
        held_out: column and value of rows that are not trained on but measured, if not the split's.
        tables: that hold the rows to train on and to hold out.
        start: recipe whose last weights the backbone starts from, trained first if it has not been.
        options: of the config, instead of its own.
    """

    config: str
    data: str
    targets: dict[str, tuple[str, float | None]]
    budget: float
    captions: tuple[str, ...] = ()
    held_out: tuple[str, str] | None = None
    tables: tuple[str, ...] = ("train.tsv",)
    start: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})


def _both_ways(recalls: dict[int, float]) -> dict[str, tuple[str, float | None]]:
    return {
        f"retrieval/{direction}_R@{k}": (f"{direction.replace('_', ' ')} R@{k}", value)
        for direction in ("image_to_text", "text_to_image")
        for k, value in recalls.items()
    }


def _with_and_without_start(name: str, start: str, recipe: Recipe) -> dict[str, Recipe]:
    return {name: recipe._replace(start=start), f"{name}-scratch": recipe}


_ACCURACY = "zero_shot/top1"
_SCENE_TEXTS = (
    "../emoji_phrases/train.tsv:text",
    "../emoji_questions/questions_train.tsv:question",
    "../emoji_questions/statements_train.tsv:text",
)
_NOTE_TEXTS = (
    "../gm_instruments/train.tsv:label",
    "../note_questions/questions_train.tsv:text",
)
_SOUNDS = Recipe(
    "onepeace-tiny_classify_esc10", "esc10", {"accuracy/top1": ("accuracy", None)}, 0.5
)
_INSTRUMENTS = Recipe(
    "onepeace-tiny_al_gm-instruments-log-mel",
    "gm_instruments",
    {_ACCURACY: ("accuracy", 22)},
    1,
    ("train.tsv:label",),
)
_STATEMENTS = Recipe(
    "onepeace-tiny_nlvr2_emoji-64",
    "emoji_questions",
    {"accuracy/top1": ("accuracy", None)},
    2,
    _SCENE_TEXTS,
)
RECIPES = {
    "labelmefacade": Recipe(
        "onepeace-tiny_upernet_labelmefacade-256", "labelmefacade", {"mIoU": ("mIoU", 46)}, 1.5
    ),
    "labelmefacade-short": Recipe(
        "onepeace-tiny-pretrained_upernet_labelmefacade-256",
        "labelmefacade",
        {"mIoU": ("mIoU", None)},
        0.5,
    ),
    "labelmefacade-pretrained": Recipe(
        "onepeace-tiny-pretrained_upernet_labelmefacade-256",
        "labelmefacade",
        {"mIoU": ("mIoU", None)},
        0.5,
        start="emoji",
    ),
    "emoji-scenes": Recipe(
        "onepeace-tiny_upernet_emoji-128", "emoji_scenes", {"mIoU": ("mIoU", 45)}, 1
    ),
    "emoji-scenes-mask2former": Recipe(
        "onepeace-tiny_vit-adapter_mask2former_emoji-128", "emoji_scenes", {"mIoU": ("mIoU", None)}, 1
    ),
    "bccd": Recipe(
        "onepeace-tiny_faster-rcnn_bccd",
        "bccd",
        {"coco/bbox_mAP_50": ("AP50", 87), "coco/bbox_mAP": ("AP", 50.3)},
        2,
    ),
    "emoji-objects": Recipe(
        "onepeace-tiny_mask-rcnn_emoji-160",
        "emoji_objects",
        {"coco/bbox_mAP": ("box AP", 25), "coco/segm_mAP": ("mask AP", 20)},
        1,  # of 2, the other is the start's
        start="emoji-scenes",
    ),
    "emoji": Recipe(
        "onepeace-tiny_vl-overlapping_emoji-64",
        "emoji",
        _both_ways({1: 16, 10: 50}),
        2,
        ("train.tsv",),
    ),
    "flickr1k": Recipe(
        "onepeace-tiny_vl_flickr1k-64", "flickr1k", _both_ways({10: 20}), 1.5, ("train.tsv",)
    ),
    **_with_and_without_start(
        "flickr1k-retrieval",
        "flickr1k",
        Recipe(
            "onepeace-tiny_retrieval_flickr1k-64",
            "flickr1k",
            {"retrieval/r_mean": ("mean recall", None)},
            0.8,
            ("train.tsv",),
        ),
    ),
    "esc10": Recipe(
        "onepeace-tiny_al_esc10", "esc10", {_ACCURACY: ("accuracy", 82)}, 1, ("train.tsv:label",)
    ),
    "fsdd": Recipe(
        "onepeace-tiny_al_fsdd", "fsdd", {_ACCURACY: ("accuracy", 94)}, 1, ("train.tsv:label",)
    ),
    "fsdd-new-speaker": Recipe(
        "onepeace-tiny_al_fsdd",
        "fsdd",
        {_ACCURACY: ("accuracy", 50)},
        1,
        ("train.tsv:label",),
        ("speaker", "theo"),
    ),
    "names": Recipe(
        "onepeace-tiny_vl_emoji-names-32",
        "emoji_phrases",
        {_ACCURACY: ("accuracy", None)},
        0.2,
        _SCENE_TEXTS,
    ),
    **_with_and_without_start(
        "phrases",
        "names",
        Recipe(
            "onepeace-tiny_grounding_emoji-64",
            "emoji_phrases",
            {"grounding/accuracy@0.5": ("accuracy", None)},
            1,
            _SCENE_TEXTS,
        ),
    ),
    **_with_and_without_start(
        "questions",
        "phrases",
        Recipe(
            "onepeace-tiny_vqa_emoji-64",
            "emoji_questions",
            {"vqa/accuracy": ("accuracy", None)},
            1,
            _SCENE_TEXTS,
        ),
    ),
    **_with_and_without_start("statements", "questions", _STATEMENTS),
    "statements-flipped": _STATEMENTS._replace(
        start="questions", options={"model.data_preprocessor.augmentation.flip": 0.5}
    ),
    **{
        name: recipe
        for fold in "1234"
        for name, recipe in _with_and_without_start(
            f"esc10-fold{fold}",
            "notes",
            _SOUNDS._replace(held_out=("fold", fold), tables=("train.tsv", "val.tsv")),
        ).items()
    },
    "gm_instruments": _INSTRUMENTS,
    "notes": _INSTRUMENTS._replace(captions=_NOTE_TEXTS),
    **_with_and_without_start(
        "note-families",
        "notes",
        Recipe(
            "onepeace-tiny_families_notes",
            "gm_instruments",
            {"accuracy/top1": ("accuracy", None)},
            0.5,
        ),
    ),
    **_with_and_without_start(
        "note-mixtures",
        "notes",
        Recipe(
            "onepeace-tiny_multi-label_notes",
            "note_questions",
            {"multilabel/mAP": ("mAP", None)},
            1,
        ),
    ),
    **_with_and_without_start(
        "note-answers",
        "notes",
        Recipe(
            "onepeace-tiny_answers_notes",
            "note_questions",
            {"accuracy/top1": ("accuracy", None)},
            1,
            _NOTE_TEXTS,
        ),
    ),
    "note-questions": Recipe(
        "onepeace-tiny_questions_notes",
        "note_questions",
        {"accuracy/top1": ("accuracy", None)},
        1,
        ("questions_train.tsv:text",),
    ),
}  # fmt: skip


def yardstick() -> float:
    """Seconds of T, from 25 steps after 5 that warm up."""
    init_default_scope("mmseg")
    cfg = Config.fromfile(ROOT / "configs/_base_/models/onepeace_upernet.py")
    norm = dict(type="BN", requires_grad=True)
    head = dict(channels=64, num_classes=9, norm_cfg=norm)
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(
                    arch="tiny", img_size=128, out_indices=[2, 5, 8, 11], layer_scale_init=0.03
                ),
                neck=dict(norm_cfg=norm),
                decode_head=head,
                auxiliary_head=head,
            )
        )
    )
    model = MODELS.build(cfg.model).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images = torch.randn(16, 3, 128, 128)
    samples = []
    for labels in torch.randint(9, (16, 1, 128, 128)):
        sample = SegDataSample(metainfo=dict(img_shape=(128, 128)))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    taken = []
    for _ in range(30):
        start = time.perf_counter()
        loss, _ = model.parse_losses(model(images, samples, mode="loss"))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        taken.append(time.perf_counter() - start)
    return _YARDSTICK_STEPS * statistics.median(taken[5:])


def renamed(node: Any, split: str) -> Any:
    """A config whose paths have another split than val."""
    if isinstance(node, dict):
        return type(node)({key: renamed(value, split) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)(renamed(value, split) for value in node)
    if not isinstance(node, str):
        return node
    parts = (part.replace("_val.", f"_{split}.") for part in node.split("/"))
    return "/".join({"val": split, "val.tsv": f"{split}.tsv"}.get(p, p) for p in parts)


def without_rows(recipe: Recipe, data: Path, folder: Path) -> None:
    """Write train.tsv without the rows of a value, and val.tsv with these alone."""
    column, value = recipe.held_out
    rows = []
    for table in recipe.tables:
        with (data / table).open(newline="") as file:
            rows += csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    for name, keep in (("train", False), ("val", True)):
        chosen = [row for row in rows if (row[column] == value) is keep]
        if not chosen:
            tables = ", ".join(str(data / table) for table in recipe.tables)
            raise SystemExit(f"{tables}: no row for {name}, where {column} is {value!r}.")
        for row in chosen:
            row["audio"] = str((data / row["audio"]).resolve())
        lines = ["\t".join(chosen[0]), *("\t".join(row.values()) for row in chosen)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")


def train_one(name: str, args: argparse.Namespace) -> None:
    """One run, in this process; its scores are written to a file."""
    recipe, (seed,) = RECIPES[name], args.seeds
    work_dir = folder_of(name, seed, args)
    data = args.data_root / recipe.data
    if recipe.held_out:
        without_rows(recipe, data, work_dir)
        data = work_dir
    cfg = Config.fromfile(ROOT / f"configs/tiny/{recipe.config}.py")
    cfg.work_dir = str(work_dir)
    cfg.default_hooks.pop("visualization", None)
    run_options.set_data_root(cfg, str(data))
    if recipe.captions:
        tokenizer = work_dir / "tokenizer.json"
        tables = [str(data / table) for table in recipe.captions]
        subprocess.run(
            [sys.executable, str(ROOT / "tools/train_tokenizer.py"), *tables, str(tokenizer),
             "--vocab-size", str(cfg.model.backbone.modalities.text.vocab_size)],
            check=True,
        )  # fmt: skip
        run_options.set_tokenizer(cfg, str(tokenizer))
    if recipe.start:
        weights = find(str(folder_of(recipe.start, seed, args)))
        cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(weights))
    cfg.merge_from_dict(dict(recipe.options))
    if args.steps:
        cfg.train_cfg.max_iters = cfg.param_scheduler[-1].end = args.steps
        cfg.default_hooks.checkpoint.interval = args.steps
    tested = copy.deepcopy(cfg)
    cfg.randomness.seed = seed
    cfg.default_hooks.checkpoint.pop("save_best", None)
    for split in ("val", "test"):
        for part in ("dataloader", "cfg", "evaluator"):
            cfg[f"{split}_{part}"] = None
    runner_class = RUNNERS.get(cfg.runner_type)
    runner = runner_class.from_cfg(cfg)
    start = time.monotonic()
    runner.train()
    seconds = time.monotonic() - start
    del runner

    for part in ("test_dataloader", "test_evaluator"):
        tested[part] = renamed(tested[part], "val" if recipe.held_out else args.split)
    checks.check_data(tested, ("test_dataloader",))
    tested.experiment_name = f"test-{name}-{seed}"
    tested.load_from = str(find(str(work_dir)))
    scores = runner_class.from_cfg(tested).test()
    result = json.dumps({"seconds": seconds, "scores": scores}, default=float)  # NumPy's numbers
    (work_dir / "result.json").write_text(result)


def folder_of(name: str, seed: int, args: argparse.Namespace) -> Path:
    """The work directory of a run: results of other splits or lengths are not this one's."""
    steps = f"-{args.steps}" if args.steps else ""
    return args.work_dir / f"{name}-{args.split}{steps}-{seed}"


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run, in a process of its own; one that has been measured is not repeated."""
    work_dir = folder_of(name, seed, args)
    work_dir.mkdir(parents=True, exist_ok=True)
    result = work_dir / "result.json"
    if not result.is_file():
        if start := RECIPES[name].start:
            run(start, seed, args)
        command = [
            sys.executable, __file__, "--data-root", str(args.data_root), "--seeds", str(seed),
            "--split", args.split, "--work-dir", str(args.work_dir), "--run", name,
            *(["--steps", str(args.steps)] if args.steps else []),
        ]  # fmt: skip
        with (work_dir / "log").open("w") as log:
            done = subprocess.run(command, check=False, stdout=log, stderr=log, env=os.environ)
        if done.returncode:
            raise SystemExit(f"{name}, seed {seed}, ended with {done.returncode}: see {log.name}")
    return json.loads(result.read_text())


def row(name: str, runs: list[dict[str, Any]], unit: float) -> str:
    """A line of the report."""
    recipe, cells = RECIPES[name], []
    for key, (label, target) in recipe.targets.items():
        values = [run["scores"][key] for run in runs]
        values = [100 * v for v in values] if key.startswith("coco/") else values
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        wanted = "" if target is None else f" ({target:g})"
        cells.append(f"{label} {statistics.mean(values):.1f}{spread}{wanted}")
    seconds = statistics.mean(run["seconds"] for run in runs)
    return (
        f"| {name} | {', '.join(cells)} | {seconds / unit:.2f} ({recipe.budget:g}) | "
        f"{seconds / 60:.1f} | `{recipe.config}` |"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each run, instead of the recipe's")
    parser.add_argument("--split", default="val", help="to measure on (val)")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/benchmark_recipes"))
    parser.add_argument("--run", choices=RECIPES, help="one run, in this process")
    args = parser.parse_args()
    if args.run:
        train_one(args.run, args)
        return
    starts = [start for name in args.only if (start := RECIPES[name].start)]
    needed = dict.fromkeys([*args.only, *starts])
    missing = [name for name in needed if not (args.data_root / RECIPES[name].data).is_dir()]
    if missing:
        folders = ", ".join(str(args.data_root / RECIPES[name].data) for name in missing)
        parser.error(f"no data for {', '.join(missing)}: expected {folders}.")
    # As many for each run as T is timed with, whatever other jobs do.
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    unit = yardstick()
    print(f"T: {unit:.0f} s", flush=True)
    rows = []
    for name in args.only:
        rows.append(row(name, [run(name, seed, args) for seed in args.seeds], unit))
        print(rows[-1], flush=True)
    seeds = " ".join(map(str, args.seeds))
    only = "" if args.only == list(RECIPES) else f" --only {' '.join(args.only)}"
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "onedl-mmengine", "onedl-mmcv"))
    report = f"""# What the tiny recipes reach from scratch

- Date: {date.today().isoformat()}
- Command: `python benchmarks/recipes.py --data-root DIR{only} --seeds {seeds} --split {args.split}`
- Hardware: {platform.machine()} CPU, {torch.get_num_threads()} threads
- Versions: Python {platform.python_version()}, {versions}
- T: {unit:.0f} s, see the script

Per cent, mean ± standard deviation over the seeds, the target in brackets.

| data | reached (target) | T (budget) | minutes | recipe |
|---|---|---|---|---|
""" + "\n".join(rows)
    path = args.work_dir / "REPORT.md"
    path.write_text(report + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
