"""Data sets in COCO's layout: a mistake in them ends a run at once, with its place and its fix."""

import json

import pytest
from mmengine.config import Config

from mmonepeace import checks
from mmonepeace.checks import CheckError
from mmonepeace.engine import run_options
from tests.coco_data import CLASSES, make_coco
from tests.conftest import ROOT

pytest.importorskip("mmdet", reason="needs mmdetection: make env-full")
BOXES = ROOT / "configs/tiny/resnet18_faster-rcnn_bccd.py"


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path / "data", train=3, val=2)


@pytest.fixture
def cfg(root):
    cfg = Config.fromfile(BOXES)
    for _, dataset in checks.dataset_configs(cfg):
        dataset.metainfo = dict(classes=CLASSES)
    run_options.set_data_root(cfg, str(root))
    return cfg


def edit(root, change, split="train"):
    """Change the annotations of a split; a new object may take their place."""
    path = root / f"annotations/instances_{split}.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data) or data))


def refused(cfg, *says):
    with pytest.raises(CheckError) as error:
        checks.check_data(cfg)
    for text in says:
        assert text in str(error.value)


def test_good_data_pass_and_the_metric_follows_the_data_root(cfg, root):
    checks.check_data(cfg)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.ann_file == str(root / "annotations/instances_val.json")


def test_a_metric_that_reads_elsewhere_stays_where_it_is(cfg):
    cfg.val_evaluator.ann_file = "/elsewhere/instances.json"
    run_options.set_data_root(cfg, "/data")
    assert cfg.val_evaluator.ann_file == "/elsewhere/instances.json"
    assert cfg.test_evaluator.ann_file == "/data/annotations/instances_val.json"
    refused(cfg, "/data/train")


def test_without_data_the_recipe_says_what_to_get_and_how_to_try_now():
    cfg = Config.fromfile(BOXES)
    run_options.set_data_root(cfg, "/nowhere")
    refused(cfg, "/nowhere/train", "BCCD_Dataset", "--data-root", "make det-demo")


def test_a_missing_annotation_file_is_named_with_help(cfg, root):
    (root / "annotations/instances_val.json").unlink()
    refused(cfg, "val_dataloader", "instances_val.json does not exist", "BCCD", "--data-root")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "no images and no annotations"),
        ('{"images": [], "annotations": []}', "no categories"),
        ('{"images": 3, "annotations": [], "categories": [7]}', "not in COCO's layout"),
    ],
)
def test_a_file_of_another_kind_is_named(cfg, root, content, says):
    (root / "annotations/instances_train.json").write_text(content)
    refused(cfg, "train_dataloader", "instances_train.json", says)


def test_a_class_that_is_no_category_is_named_with_the_categories(cfg):
    cfg.train_dataloader.dataset.metainfo.classes = ("ellipse", "square", "triangle")
    refused(cfg, "'square'", "'rectangle'", "metainfo")


def test_classes_in_another_order_than_the_file_are_refused(cfg):
    """mmdet takes the order of the file, and would give the boxes wrong names."""
    cfg.train_dataloader.dataset.metainfo.classes = CLASSES[::-1]
    refused(cfg, "another order", str(CLASSES))


def test_fewer_classes_than_categories_are_a_choice(cfg):
    for _, dataset in checks.dataset_configs(cfg):
        dataset.metainfo.classes = ("ellipse", "triangle")
    refused(cfg, "num_classes is 3", "num_classes=2")
    cfg.model.roi_head.bbox_head.num_classes = 2
    checks.check_data(cfg)


def test_a_forgotten_comma_is_found(cfg):
    cfg.train_dataloader.dataset.metainfo.classes = "cell"
    refused(cfg, "('cell',)")


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        (dict(roi_head=dict(bbox_head=dict(num_classes=80))), "model.roi_head.bbox_head.num_cla"),
        (
            dict(roi_head=dict(bbox_head=[dict(num_classes=3), dict(num_classes=4)])),
            "Set model.roi_head.bbox_head.1.num_classes=3",
        ),
        (
            dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=4))),
            "model.roi_head.mask_head.num_classes is 4",
        ),
        (dict(bbox_head=dict(num_classes=1)), "model.bbox_head.num_classes is 1"),
        (dict(mask_head=dict(num_classes=1)), "model.mask_head.num_classes is 1"),
        (
            dict(panoptic_head=dict(num_things_classes=80, num_stuff_classes=0)),
            "Set model.panoptic_head.num_things_classes=3",
        ),
    ],
)
def test_every_head_that_tells_classes_apart_is_checked(heads, says):
    with pytest.raises(CheckError) as error:
        checks.check_classes(Config(dict(model=heads)), CLASSES)
    assert says in str(error.value)


def test_heads_that_count_something_else_are_left_alone():
    heads = dict(
        rpn_head=dict(num_classes=1),
        roi_head=dict(
            bbox_head=[dict(num_classes=3)] * 3,
            mask_head=dict(num_classes=80, class_agnostic=True),
            semantic_head=dict(num_classes=183),
        ),
    )
    checks.check_classes(Config(dict(model=heads)), CLASSES)


def test_missing_pictures_are_counted_and_the_first_is_named(cfg, root):
    (root / "train/1.png").unlink()
    refused(cfg, "1 of 3 images do not exist", "train/1.png")


def test_a_data_set_without_pictures_or_boxes_is_refused(cfg, root):
    edit(root, lambda data: data["annotations"].clear(), "val")
    refused(cfg, "val_dataloader", "none of 0 annotations")
    edit(root, lambda data: data["images"].clear())
    refused(cfg, "train_dataloader", "no images")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("bbox", [0.1, 0.2, 0.3, 0.3], "x, y, width, height"),  # parts of the image's sides
        ("bbox", [1, 2, 3], "not in COCO's layout"),
        ("category_id", 7, "none of 9"),
        ("image_id", 99, "none of 9"),
        ("id", 4, "id 4"),
        ("area", 0, "none of 9"),
    ],
)
def test_annotations_that_give_no_boxes_are_refused(cfg, root, key, value, says):
    edit(root, lambda data: [a.update({key: value}) for a in data["annotations"]] and None)
    refused(cfg, "instances_train.json", says)


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "area"])
def test_an_annotation_that_lacks_a_key_is_named(cfg, root, key):
    edit(root, lambda data: data["annotations"][4].pop(key) and None)
    refused(cfg, f"annotation {'number 4' if key == 'id' else 5} has no {key}")


@pytest.fixture
def with_masks(cfg):
    for _, dataset in checks.dataset_configs(cfg):
        for step in dataset.pipeline:
            if step.type == "LoadAnnotations":
                step.with_mask = True
    cfg.model.roi_head.mask_head = dict(num_classes=3)
    return cfg


def test_masks_are_asked_of_every_annotation_if_they_are_loaded(with_masks, root):
    checks.check_data(with_masks)
    edit(root, lambda data: data["annotations"][2].pop("segmentation") and None)
    refused(with_masks, "1 of 9 annotations have no segmentation", "first is 3", "with_mask=False")


def test_masks_that_the_model_needs_and_no_one_loads_are_named(with_masks):
    with_masks.train_dataloader.dataset.pipeline[1].with_mask = False
    refused(with_masks, "with_mask=True")


def test_a_metric_of_masks_needs_a_head_of_masks(cfg):
    cfg.val_evaluator.metric = ["bbox", "segm"]
    refused(cfg, "val_evaluator.metric", "no mask_head", "val_evaluator.metric=bbox")


def test_a_metric_of_other_annotations_is_refused(cfg, root):
    cfg.val_evaluator.ann_file = str(root / "annotations/instances_train.json")
    refused(cfg, "val_evaluator.ann_file", "instances_train.json", "the same file")


def test_wrapped_and_joined_data_sets_are_checked(cfg, root):
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=inner)
    cfg.val_dataloader.dataset = dict(
        type="ConcatDataset", datasets=[cfg.val_dataloader.dataset, inner]
    )
    checks.check_data(cfg)
    (root / "train/2.png").unlink()
    refused(cfg, "train/2.png")


def test_tta_merges_boxes_and_says_that_it_cannot_merge_masks(cfg):
    cfg.model.roi_head.mask_head = dict(num_classes=3)
    with pytest.raises(CheckError, match=r"mask_head=None test_evaluator\.metric=bbox"):
        run_options.set_tta(cfg)
    cfg.model.roi_head.mask_head = None
    run_options.set_tta(cfg)
    assert (cfg.model.type, cfg.model.module.type) == ("DetTTAModel", "FasterRCNN")
    cfg.pop("tta_pipeline")
    with pytest.raises(CheckError, match="no tta_model and tta_pipeline"):
        run_options.set_tta(cfg)


def test_bfloat16_is_refused_where_nms_would_fail(cfg):
    with pytest.raises(CheckError, match=r"NMS and RoIAlign.*--amp"):
        run_options.set_precision(cfg, "bfloat16")
    cfg.model.pop("rpn_head")
    run_options.set_precision(cfg, "bfloat16")
    assert cfg.optim_wrapper.type == "mmonepeace.BFloat16OptimWrapper"


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("model.test_cfg.rcnn.nms.iou_thr", "nms.iou_threshold"),
        ("model.train_cfg.rpn.assigner.pos_iou", "pos_iou_thr"),
        ("model.train_cfg.rcnn.sampler.number", "num"),
        ("train_dataloader.dataset.filter_cfg.min_sizes", "min_size"),
        ("val_evaluator.clas_wise", "classwise"),
    ],
)
@pytest.mark.ops
def test_an_override_that_no_detector_reads_is_refused(cfg, key, says):
    with pytest.raises(CheckError) as error:
        checks.apply_overrides(cfg, {key: 1})
    assert says in str(error.value)


@pytest.mark.ops
def test_overrides_of_detectors_that_the_recipe_leaves_out_are_taken(cfg):
    overrides = {
        "model.test_cfg.rcnn.nms.min_score": 0.01,
        "model.test_cfg.rcnn.nms.type": "soft_nms",
        "model.train_cfg.rcnn.assigner.gpu_assign_thr": 10,
        "train_dataloader.dataset.filter_cfg.min_size": 8,
        "train_dataloader.batch_sampler": dict(type="AspectRatioBatchSampler"),
    }
    checks.apply_overrides(cfg, overrides)
    assert cfg.model.test_cfg.rcnn.nms.min_score == 0.01
