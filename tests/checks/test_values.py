"""Names and values of settings are checked from the classes that they are for."""

import pytest
from mmengine.config import Config

from mmonepeace.checks import CheckError, apply_overrides, read_config
from mmonepeace.checks.consistency import check_consistency, late_schedules
from mmonepeace.checks.values import check_values
from tests.conftest import ROOT, SEGMENTATION

TINY = ROOT / "configs/tiny"
PAIRS_OF_IMAGES = ROOT / "configs/tasks/onepeace-giant_nlvr2-256.py"
PRETRAINING = TINY / "onepeace-tiny_vl_emoji-64.py"
DETECTION = TINY / "onepeace-tiny_mask-rcnn_emoji-160.py"
PYRAMID = ROOT / "configs/det/onepeace-base_mask-rcnn_coco-lsj-1280.py"


def refusal(path, check, **changes):
    """The line about a config after changes, `a__b=x` for `a.b=x`."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    with pytest.raises(CheckError) as error:
        check(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_schedules_of_epochs_that_become_steps_may_have_half_an_epoch():
    cfg = Config.fromfile(SEGMENTATION)
    half = dict(type="LinearLR", begin=0.5, end=2.5, by_epoch=True, convert_to_iter_based=True)
    cfg.param_scheduler = [half]
    check_values(cfg)
    for wrong in (dict(end=0.0), dict(begin=-0.5), dict(convert_to_iter_based=False)):
        cfg.param_scheduler = [half | wrong]
        with pytest.raises(CheckError, match=r"param_scheduler\.0\.(begin|end) is"):
            check_values(cfg)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        # of the signature of our own class, and of others'
        ("model.backbone.drop_path_rate", "0.1", "is '0.1'; expected a number."),
        ("model.backbone.with_cp", "False", "is 'False'; expected True or False."),
        ("model.backbone.img_size", None, "is None; expected an integer."),
        ("model.backbone.out_indices", "all", "expected an integer or a list, each an integer."),
        ("model.backbone.rpb", "per_layer", "expected one of 'shared', 'per_block'."),
        ("model.backbone", None, "is None; expected a dict."),
        ("model.backbone.img_size", float("nan"), "is nan; expected an integer"),
        ("model.decode_head.pool_scales", "all", "expected a list."),
        ("train_dataloader.sampler.shuffle", "yes", "expected True or False"),
        ("model.decode_head.align_corners", "no", "True or False, without quotes."),
        ("model.decode_head.chanels", 16, "UPerHead has no 'chanels'. Did you mean channels"),
        ("optim_wrapper.clip_gard", dict(max_norm=1.0), "OptimWrapper has no 'clip_gard'."),
        # of numbers, by their names
        ("optim_wrapper.optimizer.lr", "1e-3", "a number above 0, without quotes."),
        ("optim_wrapper.optimizer.lr", -1e-3, "is -0.001; expected a number above 0."),
        ("optim_wrapper.optimizer.lr", float("nan"), "is nan; expected a number above 0."),
        ("optim_wrapper.optimizer.lr", float("inf"), "is inf; expected a number above 0."),
        ("optim_wrapper.optimizer.betas", (0.9, 1.5), "from 0 to below 1 in each place."),
        ("optim_wrapper.optimizer.betas", (0.9,), "expected 2 values."),
        ("optim_wrapper.clip_grad.max_norm", -1, "expected a number above 0."),
        ("optim_wrapper.accumulative_counts", 0, "expected an integer of 1 or more."),
        ("train_cfg.max_iters", 0, "is 0; expected an integer of 1 or more."),
        ("train_cfg.max_iters", -5, "is -5; expected an integer of 1 or more."),
        ("train_cfg.val_interval", 2.5, "is 2.5; expected an integer of 1 or more."),
        ("train_dataloader.num_workers", -1, "expected an integer of 0 or more."),
        ("default_hooks.checkpoint.interval", 0, "1 or more, or -1 for none."),
        ("model.data_preprocessor.std", [0, 1, 1], "a number above 0 in each place."),
        ("model.decode_head.loss_decode.loss_weight", float("nan"), "a number of 0 or more."),
        ("randomness.seed", "abc", "expected an integer of 0 or more."),
        ("param_scheduler.1.begin", 700, "expected at most end, which is 600."),
        # of types
        ("model.decode_head.type", "UPerHed", "there is no such type. Did you mean 'UPerHead'?"),
        ("model.backbone.type", "mmonepeace.OnePeac", "Did you mean 'mmonepeace.OnePeace'"),
        ("model.decode_head.norm_cfg.type", "BatchNorm", "Did you mean 'BN'"),
        ("train_dataloader.sampler.type", "InfinteSampler", "Did you mean 'InfiniteSampler'"),
        ("optim_wrapper.constructor", "LayerDecayOptimWraperConstructor", "Did you mean"),
        # of words
        ("log_level", "LOUD", "expected one of DEBUG, INFO, WARNING"),
    ],
)  # fmt: skip
def test_a_value_that_no_run_can_use_is_one_line_with_its_key(key, value, says):
    line = refusal(SEGMENTATION, check_values, **{key.replace(".", "__"): value})
    assert key.removesuffix(".norm_cfg.type") in line
    assert says in line


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model.gather", "fulll", "expected one of 'official', 'full'."),
        ("model.label_smoothing", 1.5, "from 0 to below 1."),
        ("train_dataloader.dataset.pipeline.0.crop_scale", (0.5, 1.5), "above 0 and at most 1"),
        ("train_dataloader.dataset.pipeline.0.size", (64,), "an integer or 2 values"),
        ("train_dataloader.dataset.ann_file", 7, "expected a string or a dict or a list"),
    ],
)
def test_so_is_one_of_pretraining(key, value, says):
    line = refusal(PRETRAINING, check_values, **{key.replace(".", "__"): value})
    assert line.startswith(f"{key} is {value!r}; ")
    assert says in line


@pytest.mark.ops
def test_so_is_one_of_a_detector():
    line = refusal(DETECTION, check_values, model__train_cfg__rpn__assigner__neg_iou_thr=0.9)
    assert "neg_iou_thr is 0.9; expected at most pos_iou_thr, which is 0.7." in line


def test_all_faults_are_named_at_once():
    cfg = Config.fromfile(SEGMENTATION)
    cfg.train_cfg.max_iters = 0
    cfg.train_dataloader.batch_size = 0
    with pytest.raises(CheckError) as error:
        check_values(cfg)
    assert [line.split()[0] for line in str(error.value).splitlines()] == [
        "train_dataloader.batch_size",
        "train_cfg.max_iters",
    ]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train_dataloader", 1.5, "expected a dict."),
        ("train_dataloader.dataset", [], "expected a dict with a type."),
        ("train_dataloader.dataset", {}, "expected a dict with a type."),
        ("train_dataloader.dataset.pipeline", "train", "expected a list of dicts with a type."),
        ("train_dataloader.dataset.metainfo", -1, "expected a dict."),
        ("train_dataloader.sampler", [1, 2], "expected a dict."),
        ("optim_wrapper.optimizer", [1, 2], "expected a dict with a type."),
        ("custom_hooks.0", "LabelCheckHook", "expected a dict with a type."),
        ("param_scheduler.1", [], "expected a dict with a type."),
        ("param_scheduler", "PolyLR", "expected a dict with a type, or a list of them."),
        ("default_hooks.checkpoint", True, "expected a dict with a type, or None."),
        ("model.type", [], "expected the name of a class."),
        ("model.neck.norm_cfg.type", {}, "expected the name of a class."),
        ("env_cfg", "fork", "expected a dict."),
        ("default_hooks.checkpoint", {}, "expected a dict with a type, or None."),
        ("train_dataloader.dataset.metainfo.classes", [1, 2], "expected names, each a string."),
        ("runner_type", -1, "expected a name."),
        ("default_scope", [], "expected a name."),
    ],
)
def test_the_shape_of_a_config_is_checked_as_it_is_read(key, value, says, tmp_path):
    cfg = Config.fromfile(SEGMENTATION)
    *parents, name = key.split(".")
    node = cfg._cfg_dict
    for parent in parents:
        node = node[int(parent)] if parent.isdigit() else node[parent]
    node[int(name) if name.isdigit() else name] = value
    line = f"{key} is {value!r}; {says}"
    with pytest.raises(CheckError) as error:
        apply_overrides(cfg, None)
    assert str(error.value) == line
    path = tmp_path / "recipe.py"
    path.write_text("\n".join(f"{name} = {value!r}" for name, value in cfg._cfg_dict.items()))
    with pytest.raises(CheckError) as error:
        read_config(str(path))
    assert str(error.value) == line


def test_a_work_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    line = refusal(SEGMENTATION, check_values, work_dir=str(tmp_path / "file"))
    assert "which is a file; expected a folder. Name another: --work-dir DIR" in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(optim_wrapper=None), "optim_wrapper is missing; a run needs it beside train_data"),
        (dict(val_evaluator=None), "val_evaluator is missing; a run needs it beside val_data"),
        (dict(train_dataloader__sampler=None), "train_dataloader.sampler is None; expected a dict"),
        (dict(train_cfg__max_iters=None), "train_cfg has neither max_iters nor max_epochs"),
        (
            dict(val_dataloader__sampler__type="InfiniteSampler"),
            "val_dataloader.sampler.type is 'InfiniteSampler', which never ends.",
        ),
        (
            dict(train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2)),
            "which never ends, but train_cfg counts epochs.",
        ),
        (dict(param_scheduler__1__by_epoch=True), "the schedule would never move."),
        (
            {"default_hooks.checkpoint.by_epoch": True, "default_hooks.checkpoint.interval": 5},
            "nothing would be saved before the end.",
        ),
        (dict(model__data_preprocessor__size=(64, 64)), "crop_size is (128, 128), but model.data"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, says):
    assert says in refusal(SEGMENTATION, check_consistency, **changes)


def test_stages_of_the_model_and_of_the_masks_are_the_same():
    line = refusal(PRETRAINING, check_consistency, model__stage="al")
    assert "pipeline.2.stage is 'vl', but model.stage is 'al'." in line


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (
            PAIRS_OF_IMAGES,
            dict(model__head__num_views=1),
            "train_dataloader loads two images of each sample, but model.head.num_views is 1.",
        ),
        (
            PRETRAINING,
            dict(model__backbone__modalities=dict(text={})),
            "train_dataloader.dataset.pipeline.0 loads image, but model.backbone.modalities has text.",
        ),
        (
            PRETRAINING,
            dict(model__type="mmonepeace.OnePeaceRetriever"),
            "pipeline.2 is MaskTokens, which OnePeaceRetriever has no use for. Leave it out.",
        ),
    ],
)
def test_pipelines_load_what_a_model_takes(path, change, says):
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in change.items()})
    if "modalities" in str(change):
        del cfg.model.backbone.modalities["image"]
    with pytest.raises(CheckError) as error:
        check_consistency(cfg)
    assert says in str(error.value)


VQA, CHOICE = TINY / "onepeace-tiny_vqa_emoji-64.py", TINY / "onepeace-tiny_questions_notes.py"
BOXES = TINY / "onepeace-tiny_grounding_emoji-64.py"
SEVERAL = TINY / "onepeace-tiny_multi-label_notes.py"


@pytest.mark.parametrize(
    ("path", "changes", "says"),
    [
        (
            VQA,
            dict(model__loss__type="mmonepeace.HingeLoss"),
            "model.loss is HingeLoss, but train_dataloader.dataset has labels='confidences'. It needs M",
        ),
        (SEVERAL, dict(model__loss__type="mmonepeace.ClassLoss"), "It needs MultiLabelLoss."),
        (SEVERAL, dict(model__loss=None), "model.loss is ClassLoss, but"),
        (
            VQA,
            dict(val_evaluator__type="mmonepeace.Accuracy"),
            "val_evaluator is Accuracy, but val_dataloader.dataset has labels='confidences'. It needs V",
        ),
        (BOXES, dict(test_evaluator__type="mmonepeace.Accuracy"), "It needs GroundingAccuracy."),
        (
            CHOICE,
            dict(train_dataloader__dataset__type="mmonepeace.BoxDataset"),
            "train_dataloader.dataset is BoxDataset, but OnePeaceClassifier is trained with Labelled",
        ),
    ],
)
def test_targets_fit_the_loss_and_the_metric(path, changes, says):
    assert says in refusal(path, check_consistency, **changes)


def test_candidates_are_as_many_in_the_model_as_in_the_data():
    cfg = Config.fromfile(CHOICE)
    cfg.model.num_candidates = 3
    with pytest.raises(CheckError) as error:
        check_consistency(cfg)
    lines = str(error.value).splitlines()
    loaders = ["train_dataloader", "val_dataloader", "test_dataloader"]
    assert [line.split(".")[0] for line in lines] == loaders
    assert "has 4 candidates of each question, model.num_candidates is 3. Set" in lines[0]


@pytest.mark.parametrize(
    ("key", "strides", "which"),
    [
        ("model.rpn_head.anchor_generator.strides", [4, 8, 16], "all"),
        ("model.roi_head.mask_roi_extractor.featmap_strides", [4, 8, 16, 32, 64, 128], "the first"),
        ("model.roi_head.bbox_roi_extractor.featmap_strides", [8, 16], "the first"),
    ],
)
def test_anchors_and_regions_are_on_the_maps_of_the_pyramid(key, strides, which):
    line = refusal(PYRAMID, check_consistency, **{key: strides})
    assert line.startswith(
        f"{key} is {strides}; the maps of SimpleFeaturePyramid have strides [4, 8,"
    )
    assert line.endswith(f"Use {which} of them.")


def test_a_warm_up_that_is_longer_than_the_run_is_noticed():
    cfg = Config.fromfile(SEGMENTATION)
    assert late_schedules(cfg) == []
    cfg.train_cfg.max_iters = 20
    (line,) = late_schedules(cfg)
    assert line.startswith("param_scheduler.0.end is 50, but train_cfg.max_iters is 20")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.ops] * ("rcnn" in path.stem))
        for path in sorted(TINY.glob("*.py"))
        if "groups" not in path.stem and "mask2former" not in path.stem
    ],
)
def test_recipes_have_nothing_wrong(path):
    cfg = Config.fromfile(path)
    check_values(cfg)
    check_consistency(cfg)
