"""Options of the command line that change how a recipe runs."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel

from mmonepeace import checks
from mmonepeace.checks import CheckError
from mmonepeace.commands import pretrain, train
from mmonepeace.engine import run_options
from tests.coco_data import CLASSES, make_coco
from tests.conftest import ROOT, SEGMENTATION


@pytest.fixture
def segmentation():
    return Config.fromfile(SEGMENTATION)


@pytest.fixture
def detection():
    pytest.importorskip("mmdet", reason="needs mmdetection: make env-full")
    return Config.fromfile(ROOT / "configs/tiny/resnet18_faster-rcnn_bccd.py")


def test_float16_needs_a_gpu(segmentation, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(CheckError, match="Use bf16"):
        run_options.set_precision(segmentation, "fp16")


def test_averages_are_set_beside_the_hooks_of_a_recipe_and_once(segmentation):
    before = list(segmentation.custom_hooks)
    run_options.set_average(segmentation, 0.9)
    *kept, hook = segmentation.custom_hooks
    assert kept == before
    assert hook["momentum"] == pytest.approx(0.1)
    with pytest.raises(CheckError, match="has an EMAHook already"):
        run_options.set_average(segmentation, 0.9)
    with pytest.raises(CheckError, match="between 0 and 1"):
        run_options.set_average(segmentation, 1.0)


def test_resuming_from_a_missing_file_is_refused(segmentation):
    with pytest.raises(CheckError, match=r"gone\.pth"):
        run_options.set_resume(segmentation, "gone.pth")


def test_resuming_from_another_work_directory_takes_its_newest(segmentation, tmp_path):
    for name in ("iter_9.pth", "iter_10.pth"):
        (tmp_path / name).touch()
    run_options.set_resume(segmentation, str(tmp_path))
    assert segmentation.load_from == str(tmp_path / "iter_10.pth")


def test_a_launcher_that_did_not_start_the_process_is_named(segmentation, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(CheckError, match=r"--launcher pytorch: RANK, .*tools/dist_train\.sh"):
        run_options.set_launcher(segmentation, "pytorch")


def test_a_dry_run_begins_where_the_run_would(segmentation, tmp_path, monkeypatch):
    segmentation.work_dir, segmentation.resume = str(tmp_path), True
    found = iter([str(tmp_path / "iter_9.pth"), None])
    monkeypatch.setattr(run_options, "find_latest_valid_checkpoint", lambda folder: next(found))
    run_options.keep_start(segmentation)
    assert (segmentation.resume, segmentation.load_from) == (True, str(tmp_path / "iter_9.pth"))
    segmentation.load_from = None
    run_options.keep_start(segmentation)
    assert (segmentation.resume, segmentation.load_from) == (False, None)


def test_metrics_follow_the_data_root(detection, tmp_path):
    root = make_coco(tmp_path / "data", train=3, val=2)
    for _, dataset in checks.dataset_configs(detection):
        dataset.metainfo = dict(classes=CLASSES)
    run_options.set_data_root(detection, str(root))
    for evaluator in (detection.val_evaluator, detection.test_evaluator):
        assert evaluator.ann_file == str(root / "annotations/instances_val.json")
    checks.check_data(detection)


def test_a_metric_that_reads_elsewhere_stays_where_it_is(detection):
    detection.val_evaluator.ann_file = "/elsewhere/instances.json"
    run_options.set_data_root(detection, "/data")
    assert detection.val_evaluator.ann_file == "/elsewhere/instances.json"
    assert detection.test_evaluator.ann_file == "/data/annotations/instances_val.json"


def test_tta_merges_boxes_and_says_that_it_cannot_merge_masks(detection):
    detection.model.roi_head.mask_head = dict(num_classes=3)
    with pytest.raises(CheckError, match=r"mask_head=None test_evaluator\.metric=bbox"):
        run_options.set_tta(detection)
    detection.model.roi_head.mask_head = None
    run_options.set_tta(detection)
    assert (detection.model.type, detection.model.module.type) == ("DetTTAModel", "FasterRCNN")
    detection.pop("tta_pipeline")
    with pytest.raises(CheckError, match="no tta_model and tta_pipeline"):
        run_options.set_tta(detection)


def test_an_evaluation_in_bfloat16_is_one_though_the_loop_turns_autocast_off():
    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, inputs):
            return self.linear(inputs)

        def test_step(self, data):
            return self(data)

    model = Model()
    with torch.autocast("cpu", enabled=False):
        assert model.test_step(torch.ones(1, 4)).dtype == torch.float32
        run_options.evaluate_in_bfloat16(model)
        assert model.test_step(torch.ones(1, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("command", [train, pretrain])
def test_compilation_is_an_option_of_both(command, monkeypatch):
    recipe = ROOT / "configs/tiny/onepeace-tiny_vl_emoji-64.py"
    recipe = recipe if command is pretrain else SEGMENTATION
    for given in ([], ["--compile"]):
        monkeypatch.setattr("sys.argv", ["mmonepeace", str(recipe), *given])
        cfg = command.load_config(command.parse_args())
        assert cfg.model.backbone.get("compiled", False) is bool(given)


def test_bfloat16_is_refused_where_nms_would_fail(detection):
    with pytest.raises(CheckError, match=r"NMS and RoIAlign.*fp16"):
        run_options.set_precision(detection, "bf16")
    detection.model.pop("rpn_head")
    run_options.set_precision(detection, "bf16")
    assert detection.optim_wrapper.type == "mmonepeace.BFloat16OptimWrapper"
