"""Every config loads, dumps, reads back and builds; inheritance is two levels deep."""

import ast

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmonepeace.engine import preflight
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
RECIPES = sorted(p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
BASES = sorted((CONFIGS / "_base_").rglob("*.py"))


def name(path):
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_loads_dumps_and_builds(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()
    init_default_scope(cfg.default_scope)
    with torch.device("cpu" if "tiny" in path.name else "meta"):
        MODELS.build(cfg.model)
    assert cfg.tta_model
    assert cfg.tta_pipeline
    assert cfg.auto_scale_lr
    assert cfg.randomness
    preflight.check_classes(cfg, _classes(cfg))


def _classes(cfg):
    from mmseg.registry import DATASETS

    dataset = DATASETS.build({**cfg.train_dataloader.dataset, "lazy_init": True})
    return dataset.metainfo["classes"]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_says_what_it_is_and_how_to_run_it(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    for word in ("Run:", "Needs:", "Expect:"):
        assert word in doc


@pytest.mark.parametrize("path", BASES, ids=name)
def test_bases_inherit_nothing(path):
    assert "_base_" not in path.read_text()


@pytest.mark.parametrize("path", RECIPES + BASES, ids=name)
def test_no_foreign_base_and_no_logic(path):
    tree = ast.parse(path.read_text())
    assert "::" not in path.read_text()
    banned = (ast.FunctionDef, ast.If, ast.For, ast.Import, ast.ImportFrom, ast.Lambda)
    assert not [node for node in ast.walk(tree) if isinstance(node, banned)]
