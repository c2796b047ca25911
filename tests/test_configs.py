"""Every config loads, dumps, reads back and builds; inheritance is two levels deep."""

import argparse
import ast
import re
import shlex
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, METRICS, MODELS, PARAM_SCHEDULERS, init_default_scope

from mmonepeace import checks
from mmonepeace.checks.best_score import known_scores, unknown_best
from mmonepeace.checks.config import walk
from mmonepeace.engine import run_options
from mmonepeace.spec import ARCHS, IMAGE_MEAN, IMAGE_STD
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
RECIPES = sorted(p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
read = cache(Config.fromfile)  # for what only reads a config
PRETRAINING = [p for p in RECIPES if read(p).model.type == "mmonepeace.OnePeacePretrainer"]
VALIDATED = [p for p in RECIPES if "val_evaluator" in read(p)]  # distillation is not
TTA_MODELS = {
    "mmseg": "SegTTAModel", "mmdet": "DetTTAModel", "mmpretrain": "AverageClsScoreTTA",
}  # fmt: skip
BASES = sorted((CONFIGS / "_base_").rglob("*.py"))


def name(path):
    return str(path.relative_to(CONFIGS))


def marked(path):
    """A recipe; those of mmdet and mmpretrain need what the base environment does not have."""
    return pytest.param(path, marks=[pytest.mark.ops] if needs_ops(path) else [], id=name(path))


def needs_ops(path):
    cfg = read(path)
    return cfg.default_scope in ("mmdet", "mmpretrain") or "mmdet." in cfg.pretty_text


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text()))


def build(cfg, device="meta"):
    init_default_scope(cfg.default_scope)
    with torch.device(device):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize("path", map(marked, RECIPES))
def test_the_settings_of_a_recipe_pass_the_checks_before_a_run(path):
    checks.check_settings(Config.fromfile(path))


@pytest.mark.parametrize("path", map(marked, RECIPES))
def test_recipe_loads_dumps_and_builds(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == cfg.to_dict()
    model = build(cfg, "cpu" if path.parent.name == "tiny" else "meta")
    if path.parent.name == "tiny" and hasattr(model.data_preprocessor, "mean"):
        mean, std = model.data_preprocessor.mean.flatten(), model.data_preprocessor.std.flatten()
        torch.testing.assert_close(torch.stack([mean, std]), torch.tensor([IMAGE_MEAN, IMAGE_STD]))
    assert cfg.auto_scale_lr.base_batch_size % cfg.train_dataloader.batch_size == 0
    multimodal = cfg.default_scope == "mmengine"
    assert cfg.randomness.seed == (3407 if multimodal else 0)
    if multimodal:
        return
    assert cfg.tta_model.type == TTA_MODELS[cfg.default_scope]
    assert ("tta_pipeline" in cfg) != _has_masks(cfg)  # mmdet merges boxes, not masks
    if cfg.default_scope != "mmpretrain":
        report = checks.Report()
        checks.check_heads(cfg.model, _classes(cfg), report)
        assert report.findings == []


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_kill_costs_a_tenth_of_a_run_at_most(path):
    cfg = read(path)
    hook, by_epoch = cfg.default_hooks.checkpoint, "max_epochs" in cfg.train_cfg
    assert hook.get("by_epoch", True) == by_epoch
    length = cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters
    assert 0 < hook.interval <= length / 10
    assert hook.max_keep_ckpts >= 2  # the newest may turn out to be damaged


def scores(cfg):
    """What the metrics of the validation give for samples that have all fields."""
    classes = tuple("abcdefgh")
    box, one_hot = torch.tensor([1.0, 1, 9, 9]), torch.eye(len(classes))[0]
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    fields = dict(
        pred_score=one_hot, gt_score=one_hot, answers=["a"] * 10, question_id=1, pred_box=box,
        gt_box=box, text="a", img_path="a.png", audio_path="a.wav", img_id=1, ori_shape=(16, 16),
        gt_sem_seg=dict(data=labels), pred_sem_seg=dict(data=labels),
        instances=[dict(bbox=[1, 1, 9, 9], bbox_label=0, mask=[[1, 1, 9, 1, 9, 9, 1, 9]])],
        pred_instances=dict(bboxes=box[None], scores=torch.ones(1), labels=torch.zeros(1).long(),
                            masks=torch.ones(1, 16, 16, dtype=torch.bool)),
    )  # fmt: skip
    label = torch.zeros(1, dtype=torch.long)
    fields["gt_label"] = label if cfg.default_scope == "mmpretrain" else 0
    columns = cfg.val_dataloader.dataset.get("columns", {})
    fields["embeddings"] = dict.fromkeys(columns, torch.tensor([1.0, 0]))
    init_default_scope(cfg.default_scope)
    evaluators, found = cfg.val_evaluator, []
    for options in evaluators if isinstance(evaluators, list) else [evaluators]:
        options = {k: v for k, v in options.items() if k != "ann_file"}
        if options["type"].endswith("ZeroShotAccuracy"):  # it would read its tokenizer
            metric = object.__new__(METRICS.get(options["type"]))
            metric.topk, metric.class_indices = (1, 5), dict.fromkeys(classes)
            found += [f"zero_shot/{name}" for name in metric.compute_metrics([0])]
            continue
        metric = METRICS.build(options)
        metric.dataset_meta = dict(classes=classes)
        metric.process({}, [fields])
        found += metric.evaluate(1)
    return found


@pytest.mark.parametrize("path", map(marked, VALIDATED))
def test_the_best_checkpoint_is_kept_by_a_score_that_is_measured(path, monkeypatch):
    cfg = read(path)
    given = scores(cfg)
    assert list(unknown_best(cfg, given)) == []
    assert set(known_scores(cfg)) <= set(given)
    assert known_scores(cfg) or "mmonepeace." not in str(cfg.val_evaluator)


@pytest.mark.parametrize(
    ("path", "wrong", "right"),
    [
        ("tasks/onepeace-giant_refcoco-384.py", "grounding/accuracy", "grounding/accuracy@0.5"),
        ("tasks/onepeace-giant_vqa-480.py", "accuracy", "vqa/accuracy"),
        ("tasks/onepeace-giant_vggsound.py", "accuracy/top3", "accuracy/top1"),
        ("tasks/onepeace-giant_retrieval_audiocaps.py", "retrieval/mean_R@2", "retrieval/mean_R@1"),
        ("tiny/onepeace-tiny_al_esc10.py", "zero_shot/acc", "zero_shot/top1"),
    ],
)
def test_a_score_that_nothing_measures_is_refused_before_a_run(path, wrong, right):
    cfg = Config.fromfile(CONFIGS / path)
    cfg.default_hooks.checkpoint.save_best = wrong
    with pytest.raises(checks.CheckError) as error:
        checks.check_settings(cfg)
    assert f"save_best is {wrong!r}; expected a metric of val_evaluator: " in str(error.value)
    assert right in str(error.value)
    checks.check_settings(cfg, ("test_dataloader",))


@pytest.mark.parametrize("path", PRETRAINING, ids=name)
def test_recipe_of_pretraining_gives_its_stage_what_it_needs(path):
    cfg = Config.fromfile(path)
    assert cfg.runner_type == "mmonepeace.PretrainRunner"
    run_options.set_stage(cfg, cfg.model.stage)  # modalities of the data and of the backbone
    masks = [s for s in cfg.train_dataloader.dataset.pipeline if s.type.endswith("MaskTokens")]
    denoises = cfg.model.get("denoising_weight", 1) > 0
    assert [mask.stage for mask in masks] == [cfg.model.stage] or not (masks or denoises)
    assert len({step.tokenizer for step in checks.text_steps(cfg)}) == 1
    dataset = cfg.train_dataloader.dataset
    assert dataset.get("batch_size", cfg.train_dataloader.batch_size) == (
        cfg.train_dataloader.batch_size
    )
    # Without data each of them says what it needs.
    run_options.set_tokenizer(cfg, "/nowhere/tokenizer.json")
    run_options.set_data_root(cfg, "/nowhere")
    with pytest.raises(checks.CheckError) as error:
        checks.check_run(cfg)
    needs = [cfg.needs_data, cfg.needs_tokenizer]
    needs = [re.sub(rf"(?<!\S){cfg.data_root}(?=[/,])", "/nowhere", text) for text in needs]
    for text in ("/nowhere/tokenizer.json", *needs, "--data-root DIR"):
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
    actual = []
    for _ in range(steps):
        actual.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    t = np.arange(steps)
    cosine = 1 + np.cos(np.pi * (t - warm_up) / (steps - warm_up))
    expected = low + (peak - low) * np.where(t < warm_up, t / warm_up, cosine / 2)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


TASKS = {
    "retrieval_coco-256": (8e-5, 0.9, 15),
    "retrieval_flickr30k-432": (7e-5, 0.9, 20),
    "retrieval_audiocaps": (1.5e-4, 0.95, 10),
    "fsd50k": (1e-4, 0.9, 10),
    "vggsound": (8e-5, 0.95, 10),
    "avqa": (7e-5, 0.9, 10),
    "refcocog-384": (1.5e-4, 0.9, 30),
    "vqa-768": (3e-4, 0.85, 10),
    "nlvr2-256": (1e-4, 0.9, 25),
}


@pytest.mark.parametrize("name", TASKS)
def test_learning_rates_of_the_tasks_are_the_official_ones(name):
    peak, decay, epochs = TASKS[name]
    cfg = read(CONFIGS / f"tasks/onepeace-giant_{name}.py")
    assert cfg.optim_wrapper.optimizer.lr == peak
    assert cfg.optim_wrapper.paramwise_cfg.decay_rate == decay
    assert cfg.train_cfg.max_epochs == epochs
    steps, factor = 20 * epochs, decay**40
    groups = [dict(params=[torch.zeros(1)], lr=peak * x) for x in (1.0, factor)]
    optimizer = torch.optim.AdamW(groups)
    schedulers = [
        PARAM_SCHEDULERS.get(s.type).build_iter_from_epoch(
            **{k: v for k, v in s.items() if k not in ("type", "convert_to_iter_based")},
            optimizer=optimizer,
            epoch_length=20,
        )
        for s in cfg.param_scheduler
    ]
    actual = []
    for _ in range(steps):
        actual.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    t, warm_up, low = np.arange(steps), steps // 10, 1e-6
    cosine = 1 + np.cos(np.pi * (t - warm_up) / (steps - warm_up))
    # The warm-up of MMEngine ends a step earlier.
    ramp = low + (peak - low) * t / (warm_up - 1)
    expected = np.where(t < warm_up, ramp, low + (peak - low) * cosine / 2)
    np.testing.assert_allclose(actual, expected[:, None] * [1, factor], rtol=1e-6)


def _has_masks(cfg):
    return any(step.get("with_mask") for step in walk(cfg.train_dataloader.dataset.pipeline))


def _classes(cfg):
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, "lazy_init": True})
    return dataset.metainfo["classes"]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_says_what_it_is_and_how_to_run_it(path):
    for word in ("Run:", "Needs:", "Expect:"):
        assert word in docstring(path)


def header_options():
    """Each `--cfg-options` line of a recipe's header."""
    for path in RECIPES:
        for line in re.findall(r"--cfg-options (.*)", docstring(path)):
            marks = [pytest.mark.ops] if needs_ops(path) else []
            yield pytest.param(path, line, marks=marks, id=f"{name(path)}: {line[:40]}")


def overridden(path, line):
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    options = parser.parse_args(["--cfg-options", *shlex.split(line)]).cfg_options
    cfg = Config.fromfile(path)
    checks.apply_overrides(cfg, options)
    return cfg, options


@pytest.mark.parametrize(("path", "line"), header_options())
def test_options_of_a_header_are_taken_and_build(path, line):
    cfg, options = overridden(path, line)
    for key, value in options.items():
        node = cfg
        for part in key.split("."):
            node = node[int(part) if isinstance(node, list) else part]
        assert node == value
    model = build(cfg)
    if "model.backbone.arch" in options:
        assert model.backbone.arch == ARCHS[options["model.backbone.arch"]]


def test_a_crop_is_one_number_of_the_data_set(tmp_path):
    path = CONFIGS / "seg/onepeace-base_upernet_ade20k-512.py"
    (line,) = re.findall(r"640 px --cfg-options (.*)", docstring(path))
    expected, _ = overridden(path, line)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    data = tmp_path / "configs/_base_/datasets/ade20k_512.py"
    text = data.read_text()
    assert text.count("crop = 512") == 1
    data.write_text(text.replace("crop = 512", "crop = 640"))
    actual = Config.fromfile(tmp_path / "configs" / path.relative_to(CONFIGS))
    for key in ("model", "train_dataloader", "val_dataloader", "test_dataloader"):
        assert actual[key] == expected[key]


@pytest.mark.parametrize(
    "path",
    [marked(p) for p in RECIPES if p.parent.name != "tiny" and p not in PRETRAINING],
)
def test_another_arch_is_one_change(path):
    cfg = Config.fromfile(path)
    cfg.model.backbone.arch = "small"
    assert build(cfg).backbone.arch == ARCHS["small"]


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_variant_of_a_recipe_is_short_and_has_no_variant_itself(path):
    (bases,) = re.findall(r"^_base_ = (\[.*?\])", path.read_text(), re.MULTILINE | re.DOTALL)
    parents = [path.parent / base for base in ast.literal_eval(bases) if "_base_" not in base]
    for parent in parents:
        assert len(path.read_text().split('"""')[-1].splitlines()) <= 25  # below the header
        assert '_base_ = ["./' not in parent.read_text()


def test_normalisation_has_one_home():
    for path in RECIPES + BASES:
        assert str(IMAGE_MEAN[0]) not in path.read_text(), name(path)


@pytest.mark.parametrize("path", BASES, ids=name)
def test_bases_inherit_nothing(path):
    assert "_base_ =" not in path.read_text()


@pytest.mark.parametrize("path", RECIPES + BASES, ids=name)
def test_no_foreign_base_and_no_logic(path):
    tree = ast.parse(path.read_text())
    assert "::" not in path.read_text()
    banned = (ast.FunctionDef, ast.If, ast.For, ast.Import, ast.ImportFrom, ast.Lambda)
    assert not [node for node in ast.walk(tree) if isinstance(node, banned)]
