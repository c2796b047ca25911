"""Every tiny recipe of dense prediction and classification trains ten steps and is evaluated."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace import checkpoint
from tests.conftest import ROOT
from tests.journeys.resuming import assert_same_run, left_by_a_kill
from tests.journeys.test_segmentation import losses
from tests.processes import run_tool

TINY = "arch=dict(_delete_=True, embed_dim=32, depth=4, num_heads=2)"
NINE = "classes=tuple('abcdefghi'), palette=[(i, i, i) for i in range(9)]"
QUICK = """
param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=False)]
train_cfg = dict(max_iters=10, val_interval=10)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=5))
"""
LOADERS = """
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""
RECIPES = {
    "upernet_emoji-128": LOADERS,  # the demo, whatever its model and its pipeline are
    "vit-adapter_upernet_labelmefacade-256": f"""
known = dict(avg_non_ignore=True)  # the images are small, and padded to the crop
model = dict(
    backbone=dict({TINY}, spatial_dim=8),
    decode_head=dict(channels=16, num_classes=9, loss_decode=known),
    auxiliary_head=dict(channels=16, num_classes=9, loss_decode=known),
)
own = dict(img_suffix=".png", metainfo=dict({NINE}))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=own)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=own)
test_dataloader = val_dataloader
""",
    "eomt_emoji-128": f"""
model = dict(
    backbone=dict({TINY}, num_queries=10, query_ffn="own"),
    decode_head=dict(train_cfg=dict(num_points=256)),
    test_cfg=dict(mode="slide", crop_size=(64, 64), stride=(42, 42)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
{LOADERS}""",
    "vit-adapter_mask2former_emoji-128": f"""
model = dict(
    backbone=dict({TINY}, spatial_dim=8),
    decode_head=dict(
        feat_channels=64,
        pixel_decoder=dict(
            encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64)))
        ),
        transformer_decoder=dict(layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
        train_cfg=dict(num_points=256),
    ),
)
{LOADERS}""",
}


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Images of one colour each, which is their group."""
    root = tmp_path_factory.mktemp("groups")
    names = (
        "activities", "animals & nature", "food & drink", "objects", "people & body",
        "smileys & emotion", "symbols", "travel & places",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 16)):
        lines = ["image\tgroup"]
        for i in range(count):
            colour = np.array([i % 2, i // 2 % 2, i // 4 % 2]) * 200
            image = np.clip(colour + rng.integers(0, 50, (40, 52, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / f"{split}{i}.png")
            lines.append(f"{split}{i}.png\t{names[i % 8]}")
        (root / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def scenes(seg_data, tmp_path):
    """The small data in the size of the demo's: all its images are larger than its crops."""
    for path in seg_data.rglob("*.png"):
        copy = tmp_path / "scenes" / path.relative_to(seg_data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((160, 160), Image.Resampling.NEAREST).save(copy)
    return tmp_path / "scenes"


def ten_steps(name, changes, data, tmp_path, *arguments):
    path = tmp_path / "recipe.py"
    path.write_text(f'_base_ = ["{ROOT}/configs/tiny/onepeace-tiny_{name}.py"]\n{changes}{QUICK}')
    return path, run_tool(
        "train.py", path, "--data-root", data, "--work-dir", tmp_path / "work", *arguments
    )


def check(done, metric):
    values = losses(done)
    assert len(values) == 10
    assert np.mean(values[-3:]) < np.mean(values[:3])
    assert metric in done.stdout
    assert "Optimiser groups" in done.stdout


def test_the_demo_learns(scenes, tmp_path):
    name = "upernet_emoji-128"
    _, done = ten_steps(name, RECIPES[name], scenes, tmp_path)
    check(done, "mIoU")


def test_vit_adapter_with_upernet_needs_no_operators(seg_data, tmp_path):
    name = "vit-adapter_upernet_labelmefacade-256"
    _, done = ten_steps(name, RECIPES[name], seg_data, tmp_path)
    check(done, "mIoU")


def test_mask_queries_need_no_operators_and_resume_where_they_were(seg_data, tmp_path):
    """How much attention is masked follows the steps of the run, of one that is resumed too."""
    path, done = ten_steps("eomt_emoji-128", RECIPES["eomt_emoji-128"], seg_data, tmp_path)
    check(done, "mIoU")
    resumed = left_by_a_kill(tmp_path / "resumed", tmp_path / "work")
    options = ("--resume", "--cfg-options", "train_cfg.val_interval=99")
    run_tool("train.py", path, "--data-root", seg_data, "--work-dir", resumed, *options)
    assert_same_run(resumed, tmp_path / "work")
    tested = run_tool(
        "test.py", path, tmp_path / "work", "--data-root", seg_data, "--tta", "--work-dir",
        tmp_path / "tested",
    )  # fmt: skip
    assert "mIoU" in tested.stdout


@pytest.mark.ops
def test_vit_adapter_with_mask2former_slides_over_any_size(seg_data, tmp_path):
    name = "vit-adapter_mask2former_emoji-128"
    path, done = ten_steps(name, RECIPES[name], seg_data, tmp_path)
    check(done, "mIoU")
    tested = run_tool(
        "test.py", path, tmp_path / "work", "--data-root", seg_data, "--tta", "--work-dir",
        tmp_path / "tested",
    )  # fmt: skip
    assert "mIoU" in tested.stdout


@pytest.mark.ops
def test_a_classifier_with_timms_augmentation_and_averages_resumes(groups, tmp_path):
    """RandAugment, erasing, Mixup and CutMix, and an average that follows by a tenth at each step."""
    changes = """
model = dict(backbone=dict(arch=dict(_delete_=True, embed_dim=32, depth=2, num_heads=2)),
             head=dict(in_channels=32), mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0))
augmentation = [dict(type="mmonepeace.RandAugment"), dict(type="mmonepeace.RandomErasing")]
pipeline = _base_.train_pipeline
train_dataloader = dict(
    batch_size=15, dataset=dict(pipeline=[*pipeline[:-1], *augmentation, pipeline[-1]])
)
custom_hooks = [dict(type="EMAHook", momentum=0.1)]
"""
    path, done = ten_steps("emoji-groups-64", changes, groups, tmp_path)
    assert len(losses(done)) == 10
    content = checkpoint.read_run(tmp_path / "work/iter_10.pth")
    weights, averages = (
        content["ema_state_dict"],
        content["state_dict"],
    )  # stored in each other's place
    moved = [k for k, v in averages.items() if not torch.equal(v, weights[f"module.{k}"])]
    assert len(moved) == len(averages)
    assert {v.dtype for v in averages.values()} == {torch.float32}
    resumed = left_by_a_kill(tmp_path / "resumed", tmp_path / "work")
    options = ("--resume", "--cfg-options", "train_cfg.val_interval=99")
    run_tool("train.py", path, "--data-root", groups, "--work-dir", resumed, *options)
    assert_same_run(resumed, tmp_path / "work")


@pytest.mark.ops
def test_classifier_of_mmpretrain_learns_colours(groups, tmp_path):
    changes = """
model = dict(backbone=dict(arch=dict(_delete_=True, embed_dim=32, depth=2, num_heads=2)),
             head=dict(in_channels=32))
train_dataloader = dict(batch_size=16)
"""
    path, done = ten_steps("emoji-groups-64", changes, groups, tmp_path)
    check(done, "accuracy/top1")
    resumed = left_by_a_kill(tmp_path / "resumed", tmp_path / "work")
    options = ("--resume", "--cfg-options", "train_cfg.val_interval=99")
    run_tool("train.py", path, "--data-root", groups, "--work-dir", resumed, *options)
    assert_same_run(resumed, tmp_path / "work")
    tested = run_tool(
        "test.py", path, tmp_path / "work", "--data-root", groups, "--tta", "--work-dir",
        tmp_path / "tested",
    )  # fmt: skip
    assert "accuracy/top1" in tested.stdout
    lines = (groups / "val.tsv").read_text().replace("symbols", "signs")
    (groups / "val.tsv").write_text(lines)
    failed = run_tool(
        "train.py", path, "--data-root", groups, "--work-dir", tmp_path / "failed", check=False
    )
    assert failed.returncode == 2
    assert "'signs' is not among the 8 classes" in failed.stderr
