"""Every config loads, dumps, reads back and builds; inheritance is two levels deep."""

import ast
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, init_default_scope

from mmonepeace import checks
from mmonepeace.engine import run_options
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
RECIPES = sorted(p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
PRETRAINING = [p for p in RECIPES if "runner_type" in Config.fromfile(p)]
BASES = sorted((CONFIGS / "_base_").rglob("*.py"))


def name(path):
    return str(path.relative_to(CONFIGS))


def marked(path):
    """A recipe; those of mmdet and mmpretrain need what the base environment has not."""
    cfg = Config.fromfile(path)
    needs = cfg.default_scope in ("mmdet", "mmpretrain") or "mmdet." in cfg.pretty_text
    return pytest.param(path, marks=[pytest.mark.ops] if needs else [], id=name(path))


@pytest.mark.parametrize("path", map(marked, RECIPES))
def test_recipe_loads_dumps_and_builds(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()
    init_default_scope(cfg.default_scope)
    with torch.device("cpu" if path.parent.name == "tiny" else "meta"):
        MODELS.build(cfg.model)
    assert cfg.auto_scale_lr
    assert cfg.randomness
    if path in PRETRAINING:
        return
    assert cfg.tta_model
    assert ("tta_pipeline" in cfg) != _has_masks(cfg)  # mmdet merges boxes, not masks
    if cfg.default_scope != "mmpretrain":
        checks.check_classes(cfg, _classes(cfg))


@pytest.mark.parametrize("path", PRETRAINING, ids=name)
def test_recipe_of_pretraining_gives_its_stage_what_it_needs(path):
    cfg = Config.fromfile(path)
    assert cfg.runner_type == "mmonepeace.PretrainRunner"
    run_options.set_stage(cfg, cfg.model.stage)  # modalities of the data and of the backbone
    masks = [s for s in cfg.train_dataloader.dataset.pipeline if s.type.endswith("MaskTokens")]
    assert [mask.stage for mask in masks] == [cfg.model.stage]
    assert len({step.tokenizer for step in checks.text_steps(cfg)}) == 1
    dataset = cfg.train_dataloader.dataset
    assert dataset.get("batch_size", cfg.train_dataloader.batch_size) == (
        cfg.train_dataloader.batch_size
    )
    # Without data each of them says what it needs.
    run_options.set_tokenizer(cfg, "/nowhere/tokenizer.json")
    run_options.set_data_root(cfg, "/nowhere")
    with pytest.raises(checks.CheckError) as error:
        checks.check_all(cfg)
    for text in ("/nowhere/tokenizer.json", cfg.needs_tokenizer, cfg.needs_data, "--data-root DIR"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "peak", "warm_up"),
    [
        pytest.param("giant_vl_paper", 5e-4, 3000, marks=pytest.mark.slow),
        ("base_vl_ablation", 5e-4, 3000),
        ("giant_al_paper", 2e-4, 791),
        ("giant_al_released", 2e-4, 445),
    ],
)
def test_learning_rates_of_pretraining_are_the_official_ones(recipe, peak, warm_up):
    cfg = Config.fromfile(CONFIGS / f"pretrain/onepeace-{recipe}.py")
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args={"optimizer": optimizer})
        for s in cfg.param_scheduler
    ]
    steps, low = cfg.train_cfg.max_iters, 1e-6
    for t in range(steps):
        if t < warm_up:
            expected = low + t * (peak - low) / warm_up
        else:
            cosine = math.cos(math.pi * (t - warm_up) / (steps - warm_up))
            expected = low + 0.5 * (peak - low) * (1 + cosine)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-6), t
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def _has_masks(cfg):
    return any(step.get("with_mask") for step in cfg.train_dataloader.dataset.pipeline)


def _classes(cfg):
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, "lazy_init": True})
    return dataset.metainfo["classes"]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_says_what_it_is_and_how_to_run_it(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    for word in ("Run:", "Needs:", "Expect:"):
        assert word in doc


@pytest.mark.parametrize("path", BASES, ids=name)
def test_bases_inherit_nothing(path):
    assert "_base_ =" not in path.read_text()


@pytest.mark.parametrize("path", RECIPES + BASES, ids=name)
def test_no_foreign_base_and_no_logic(path):
    tree = ast.parse(path.read_text())
    assert "::" not in path.read_text()
    banned = (ast.FunctionDef, ast.If, ast.For, ast.Import, ast.ImportFrom, ast.Lambda)
    assert not [node for node in ast.walk(tree) if isinstance(node, banned)]
