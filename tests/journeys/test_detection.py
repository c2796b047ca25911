"""What a user does with detectors, from the command line and the mmdet API, on tiny data."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace import checkpoint
from tests.coco_data import CLASSES, COLOURS, make_coco
from tests.conftest import ROOT
from tests.journeys.resuming import assert_same_run, left_by_a_kill
from tests.journeys.test_segmentation import assert_curves_and_drawings, losses
from tests.processes import run_tool

pytestmark = pytest.mark.ops
ONLY_BOXES = pytest.mark.parametrize("recipe", ["boxes"], indirect=True)

# What the recipes of boxes and of masks have in common; `heads` are those of the roi_head.
SMALL_RECIPE = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_{base}.py"]
metainfo = dict(classes={classes}, palette={palette})
train_dataloader = dict(batch_size=2, dataset=dict(metainfo=metainfo))
val_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = val_dataloader
model = dict(
    backbone=dict(arch=dict(embed_dim=32, depth=4, num_heads=2)),
    neck=dict(in_channels=[8, 16, 32], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict({heads}),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)),
)
param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=False)]
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=5), visualization=dict(interval=1)
)
train_cfg = dict(max_iters=10, val_interval=10)
"""
BASES = {"boxes": "faster-rcnn_bccd", "masks": "mask-rcnn_emoji-160"}
HEADS = {
    "boxes": """
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64, num_classes=3),
    """,
    "masks": """
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, conv_out_channels=32, fc_out_channels=64, num_classes=3),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_classes=3),
    """,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture(scope="module", params=["boxes", "masks"])
def recipe(request, tmp_path_factory):
    kind = request.param
    path = tmp_path_factory.mktemp("recipe") / f"{kind}.py"
    facts = dict(root=ROOT, classes=CLASSES, palette=list(COLOURS))
    path.write_text(SMALL_RECIPE.format(base=BASES[kind], heads=HEADS[kind], **facts))
    return path


@pytest.fixture(scope="module")
def trained(recipe, data, tmp_path_factory):
    """Work directory of ten steps, and what was printed."""
    work_dir = tmp_path_factory.mktemp("run") / "work"
    return work_dir, run_tool("train.py", recipe, "--data-root", data, "--work-dir", work_dir)


def test_ten_steps_lower_the_loss_and_are_evaluated(trained, recipe):
    work_dir, done = trained
    assert len(losses(done)) == 10
    # The sum may rise at first: boxes are learnt once some differ from the background.
    values = [float(x) for x in re.findall(r"loss_rpn_cls: ([0-9.]+)", done.stdout)]
    assert np.mean(values[-3:]) < np.mean(values[:3])
    for text in ("coco/bbox_mAP", "triangle", "Optimiser groups", "eta:"):
        assert text in done.stdout
    assert ("coco/segm_mAP" in done.stdout) == (recipe.stem == "masks")
    assert_curves_and_drawings(work_dir, "bbox_mAP", drawings=4)
    (best,) = work_dir.glob("best_coco_bbox_mAP*.pth")
    weights, _ = checkpoint.read(best)
    assert weights["roi_head.bbox_head.fc_cls.weight"].shape == (4, 64)  # and the background


@ONLY_BOXES
def test_the_same_seed_gives_the_same_losses(trained, recipe, data, tmp_path):
    again = run_tool(
        "train.py", recipe, "--data-root", data, "--work-dir", tmp_path,
        "--cfg-options", "train_cfg.max_iters=3", "train_cfg.val_interval=99",
    )  # fmt: skip
    assert losses(again) == pytest.approx(losses(trained[1])[:3], rel=1e-3)


@pytest.mark.parametrize("recipe", ["masks"], indirect=True)
def test_a_killed_run_ends_with_the_same_bits(trained, recipe, data, tmp_path):
    work_dir = left_by_a_kill(tmp_path / "work", trained[0])
    done = run_tool(
        "train.py", recipe, "--data-root", data, "--work-dir", work_dir, "--resume",
        "--cfg-options", "train_cfg.val_interval=99",
    )  # fmt: skip
    assert len(losses(done)) == 5
    assert_same_run(work_dir, trained[0])


@ONLY_BOXES
def test_averages_are_evaluated_and_resumed(recipe, data, tmp_path):
    options = ("--data-root", data, "--ema", "0.9")
    done = run_tool("train.py", recipe, *options, "--work-dir", tmp_path / "whole")
    content = checkpoint.read_run(tmp_path / "whole/iter_10.pth")
    name = "rpn_head.rpn_cls.weight"
    assert not torch.equal(content["state_dict"][name], content["ema_state_dict"][f"module.{name}"])
    work_dir = left_by_a_kill(tmp_path / "work", tmp_path / "whole")
    faster = ("--cfg-options", "train_cfg.val_interval=99")
    run_tool("train.py", recipe, *options, "--work-dir", work_dir, "--resume", *faster)
    assert_same_run(work_dir, tmp_path / "whole")
    tested = run_tool(
        "test.py", recipe, work_dir, "--data-root", data, "--work-dir", tmp_path / "w"
    )
    scores = [re.findall(r"bbox_mAP: (-?[\d.]+)", x.stdout)[-1] for x in (done, tested)]
    assert scores[0] == scores[1]


def test_evaluation_draws_and_writes_results_in_cocos_layout(trained, recipe, data, tmp_path):
    done = run_tool(
        "test.py", recipe, trained[0], "--data-root", data, "--work-dir", tmp_path / "w",
        "--show-dir", tmp_path / "show", "--out", tmp_path / "out",
    )  # fmt: skip
    assert "coco/bbox_mAP" in done.stdout
    assert sorted(p.name for p in (tmp_path / "show").iterdir()) == [f"{i}.png" for i in range(4)]
    kinds = ["bbox"] + ["segm"] * (recipe.stem == "masks")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"results.{kind}.json" for kind in kinds
    ]
    for kind in kinds:
        results = json.loads((tmp_path / f"out/results.{kind}.json").read_text())
        assert {r["image_id"] for r in results} <= set(range(4))
        assert {r["category_id"] for r in results} <= {10, 20, 30}


@ONLY_BOXES
def test_scales_and_flips_are_merged(trained, recipe, data, tmp_path):
    done = run_tool(
        "test.py", recipe, trained[0], "--data-root", data, "--work-dir", tmp_path, "--tta",
        "--show-dir", tmp_path / "show",
    )  # fmt: skip
    assert "coco/bbox_mAP" in done.stdout
    assert len(list((tmp_path / "show").iterdir())) == 4


def test_predictions_are_drawn(trained, recipe, data, tmp_path):
    out = tmp_path / "predictions.png"
    run_tool(
        "show_predictions.py", recipe, trained[0], "--num", 3, "--out", out, "--data-root", data,
        "--score-thr", 0.05,
    )  # fmt: skip
    pixels = np.array(Image.open(out).convert("RGB"))
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_mmdet_api_takes_any_size_and_lists(trained, recipe, tmp_path):
    from mmdet.apis import DetInferencer, inference_detector, init_detector
    from mmengine.config import Config
    from mmengine.runner import find_latest_checkpoint

    path = find_latest_checkpoint(trained[0])
    cfg = Config.fromfile(recipe)
    model = init_detector(cfg, path, device="cpu")
    assert tuple(model.dataset_meta["classes"]) == CLASSES
    rng = np.random.default_rng(0)
    sizes = [(97, 513), (32, 32), (200, 150), (33, 47)]
    images = [rng.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    for image, result in zip(images, inference_detector(model, images), strict=True):
        boxes = result.pred_instances.bboxes
        assert result.ori_shape == image.shape[:2]
        assert (boxes >= 0).all()
        height, width = image.shape[:2]
        assert (boxes <= boxes.new_tensor([width, height, width, height])).all()
        if recipe.stem == "masks":
            assert result.pred_instances.masks.shape[1:] == image.shape[:2]
    paths = []
    for i, image in enumerate(images):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    inferencer = DetInferencer(str(recipe), path, device="cpu", show_progress=False)
    result = inferencer(paths, batch_size=3, out_dir=str(tmp_path / "out"))
    assert len(result["predictions"]) == len(paths)
    drawn = sorted((tmp_path / "out/vis").iterdir())
    assert [Image.open(path).size[::-1] for path in drawn] == sizes


@ONLY_BOXES
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cfg-options", "model.roi_head.bbox_head.num_clases=3"], "bbox_head.num_classes"),
        (["--data-root", "/nowhere"], "/nowhere/train"),
        (["--cfg-options", "model.roi_head.bbox_head.num_classes=5"], "num_classes=3"),
    ],
)
def test_mistakes_end_at_once_with_the_fix(recipe, data, tmp_path, arguments, says):
    done = run_tool(
        "train.py", recipe, "--data-root", data, *arguments, "--work-dir", tmp_path / "work",
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert not (tmp_path / "work").exists()
