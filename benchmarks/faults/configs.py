"""Wrong configs, given to a dry run: each must end with a line that names what is wrong."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.material import Journey, make_pairs
from benchmarks.faults.mutations import draw
from benchmarks.faults.processes import in_parallel, judge, run
from benchmarks.faults.report import Result
from benchmarks.faults.wrong_configs import WRONG
from tests.conftest import ROOT, has_compiled_ops

# Of the other recipes; `{root}` is this clone's.
_AL = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_al_gm-instruments.py"]
model = dict(
    learn_words=False,
    learn_all=False,
    denoising_weight=1.0,
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, depth=3, num_heads=2, ffn_dim=48),
        modalities=dict(
            _delete_=True,
            text=dict(vocab_size=300, num_buckets=8),
            audio=dict(feature_dim=8, pos_groups=4, pos_depth=2),
        ),
    ),
    decoder=dict(embed_dim=32, ffn_dim=48, num_heads=2),
)
train_dataloader = dict(batch_size=4)
"""
_MASK2FORMER = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_vit-adapter_mask2former_emoji-128.py"]
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, depth=4, num_heads=2, ffn_dim=48), spatial_dim=8
    ),
    decode_head=dict(
        feat_channels=64,
        pixel_decoder=dict(
            encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64)))
        ),
        transformer_decoder=dict(
            num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))
        ),
        train_cfg=dict(num_points=64),
    ),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
"""
_CLASSIFICATION = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_emoji-groups-64.py"]
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=32, depth=3, num_heads=2, ffn_dim=48))
)
train_dataloader = dict(batch_size=4)
"""
_FULL_LENGTH = """
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=50, end=600),
]
train_cfg = dict(max_iters=600, val_interval=300)
"""
_THREE_CLASSES = """
metainfo = dict(
    classes=("ellipse", "rectangle", "triangle"),
    palette=[(230, 60, 60), (60, 200, 80), (70, 90, 230)],
)
train_dataloader = dict(dataset=dict(metainfo=metainfo))
val_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = dict(dataset=dict(metainfo=metainfo))
"""


class Case(NamedTuple):
    """A change of a recipe, see `wrong_configs`, and what the line about it must name."""

    recipe: str
    journey: Journey
    change: str
    names: str
    folder: Path


def try_configs(
    journeys: dict[str, Journey], root: Path, seed: int, scale: float
) -> Iterator[Result]:
    """Give each wrong config to a dry run, and the recipes themselves, which are accepted."""
    recipes = make_recipes(journeys, root)
    cases = [
        Case(name, recipes[name], change, names, root / f"{name}_{i}")
        for name in recipes
        for i, (change, names) in enumerate({"": "", **WRONG[name]}.items())
    ]
    yield from in_parallel(try_config, draw(cases, seed, scale))


def try_config(case: Case) -> Result:
    """The result of one dry run."""
    case.folder.mkdir(parents=True)
    (case.folder / "file").write_text("not what a tool expects\n")
    done = run(*arguments(case), "--dry-run")
    held: bool
    if not case.change:
        outcome, held = judge(done, [0])
    else:
        outcome, held = judge(done)
        lines = done.stderr[done.stderr.rfind("error: ") :].strip().splitlines()
        names = case.names.format(file=case.folder / "file")
        # What is wrong with data has a line for each fault or file, and what the recipe needs.
        several = len(lines) > 1 and not lines[0].startswith("error: [")
        if held and (names not in lines[0] or several):
            outcome, held = "several lines" if names in lines[0] else "key not named", False
        elif held:
            outcome = "named in one line"
    if held and (left := [path.name for path in case.folder.glob("work/*")]):
        outcome, held = f"left {left[0]}", False
    return Result(f"configs: {case.recipe}", case.change, outcome, held, done.stderr)


def arguments(case: Case) -> list[str]:
    """The command line of a case; its recipe is written where it needs one of its own."""
    change = (
        case.change.format(file=case.folder / "file") if "{file}" in case.change else case.change
    )
    options = [] if "--work-dir" in change else ["--work-dir", str(case.folder / "work")]
    recipe = case.journey.recipe
    if change.startswith("--"):
        options += change.split(" ") if "[" in change else shlex.split(change)
    elif " = " in change:
        recipe = case.folder / "recipe.py"
        recipe.write_text(f'_base_ = ["{case.journey.recipe}"]\n{_as_python(change)}\n')
    elif change:
        options += ["--cfg-options", *change.split(" ")]
    given = list(case.journey.options)
    if "--tokenizer" in change:
        given = given[:2]
    return [case.journey.tool, str(recipe), *given, *options]


def _as_python(change: str) -> str:
    """`a.b = x` as `a = dict(b=x)`; other lines as they are."""
    path, _, value = change.partition(" = ")
    first, *rest = path.split(".")
    for name in reversed(rest):
        value = f"dict({name}={value})"
    return f"{first} = {value}"


def make_recipes(journeys: dict[str, Journey], root: Path) -> dict[str, Journey]:
    """Recipes of all kinds, with schedules that are long enough for their warm-up."""
    root.mkdir(parents=True, exist_ok=True)
    pairs = make_pairs(root / "groups")
    table = (pairs / "train.tsv").read_text().replace("label", "group", 1)
    for i, name in enumerate(("activities", "objects", "symbols")):
        table = table.replace(f"class {i}", name)
    for split in ("train", "val"):
        (pairs / f"{split}_groups.tsv").write_text(table)
    groups = "\n".join(
        f"{split}_dataloader = dict(dataset=dict(ann_file='{name}_groups.tsv'))"
        for split, name in (("train", "train"), ("val", "val"), ("test", "val"))
    )
    scenes = journeys["segmentation"].options
    texts = {
        "al": ("pretrain.py", _AL, journeys["pretraining"].options),
        "mask2former": ("train.py", _MASK2FORMER, scenes),
        "classification": (
            "train.py",
            _CLASSIFICATION + groups,
            ("--data-root", str(pairs)),
        ),
    }
    recipes = {}
    for name, journey in journeys.items():
        path = root / f"{name}.py"
        more = _THREE_CLASSES if name == "detection" else ""
        path.write_text(f'_base_ = ["{journey.recipe}"]\n{_FULL_LENGTH}{more}')
        recipes[name] = Journey(journey.tool, path, journey.options)
    for name, (tool, text, options) in texts.items():
        if name == "al" or has_compiled_ops():
            path = root / f"{name}.py"
            path.write_text(text.format(root=ROOT) + "\n" + _FULL_LENGTH)
            recipes[name] = Journey(tool, path, options)
    return recipes
