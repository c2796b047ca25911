"""What a user does, from the command line and the mmseg API, on a tiny model and tiny data."""

import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmonepeace import checkpoint
from tests.conftest import ROOT, SEGMENTATION
from tests.journeys.resuming import assert_same_run, die_at_step_8, left_by_a_kill
from tests.processes import Done, of_scripts, run_tool

SMALL_RECIPE = """
_base_ = ["{base}"]
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=32, depth=4, num_heads=2), out_indices=[0, 1, 2, 3]),
    neck=dict(embed_dim=32),
    decode_head=dict(in_channels=[32] * 4, channels=16),
    auxiliary_head=dict(in_channels=32, channels=16),
)
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval=5), visualization=dict(interval=1)
)
train_cfg = dict(max_iters=10, val_interval=10)
"""


def assert_curves_and_drawings(work_dir, metric, drawings):
    """TensorBoard has the loss and a metric, and some images of the validation are drawn."""
    (events,) = work_dir.glob("*/vis_data/events.out.tfevents*")
    assert all(name.encode() in events.read_bytes() for name in ("loss", metric))
    paths = list(work_dir.glob("*/vis_data/vis_image/*.png"))
    assert len(paths) == drawings
    for path in paths:
        assert len(np.unique(np.array(Image.open(path)).reshape(-1, 3), axis=0)) > 100


def losses(done):
    """Of each step that was logged."""
    return [float(x) for x in re.findall(r"Iter\(train\).* loss: ([0-9.]+)", done.stdout)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.py"
    path.write_text(SMALL_RECIPE.format(base=SEGMENTATION))
    return path


@pytest.fixture(scope="module")
def trained(recipe, seg_data, tmp_path_factory):
    """Work directory of ten steps, and what was printed; in a new interpreter, as a user does."""
    work_dir = tmp_path_factory.mktemp("run") / "work"
    command = [sys.executable, ROOT / "tools/train.py", recipe]
    command += ["--data-root", seg_data, "--work-dir", work_dir]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return work_dir, Done(done.returncode, done.stdout, done.stderr)


def test_ten_steps_lower_the_loss_and_are_evaluated(trained):
    work_dir, done = trained
    values = losses(done)
    assert len(values) == 10
    assert np.mean(values[-3:]) < np.mean(values[:3])
    assert "eta:" in done.stdout
    for text in ("mIoU", "background", "Optimiser groups"):
        assert text in done.stdout
    assert_curves_and_drawings(work_dir, "mIoU", drawings=4)


def test_the_same_seed_gives_the_same_losses(trained, recipe, seg_data, tmp_path):
    again = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", tmp_path,
        "--cfg-options", "train_cfg.max_iters=3", "train_cfg.val_interval=99",
    )  # fmt: skip
    # Rounded: sums of several threads may differ in the last bits.
    assert losses(again) == pytest.approx(losses(trained[1])[:3], rel=1e-3)


def test_a_killed_run_ends_with_the_same_bits(trained, recipe, seg_data, tmp_path):
    command = ("train.py", recipe, "--data-root", seg_data, "--work-dir", tmp_path)
    options = ("--cfg-options", "train_cfg.val_interval=99")
    died = run_tool(*command, *options, prepare=die_at_step_8, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr[-3000:]
    options = (*options, "train_dataloader.num_workers=2")  # which must not matter
    done = run_tool(*command, "--resume", *options)
    assert f"Resuming from {tmp_path / 'iter_5.pth'}" in done.stdout
    assert "resumed at step 5 of 10" in done.stdout
    assert len(losses(done)) == 5
    assert_same_run(tmp_path, trained[0])


def test_averages_of_a_run_in_bfloat16_are_tested_and_resumed(recipe, seg_data, tmp_path):
    """`mmonepeace test` takes the averages; the last evaluation of training was of the same."""
    options = ("--data-root", seg_data, "--ema", "0.9", "--dtype", "bf16")
    done = run_tool("train.py", recipe, *options, "--work-dir", tmp_path / "whole")
    content = checkpoint.read_run(tmp_path / "whole/iter_10.pth")
    name = "backbone.layers.0.attn.q_proj.weight"
    average, weight = content["state_dict"][name], content["ema_state_dict"][f"module.{name}"]
    assert average.dtype == weight.dtype == torch.float32
    assert not torch.equal(average, weight)
    work_dir = left_by_a_kill(tmp_path / "work", tmp_path / "whole")
    faster = ("--cfg-options", "train_cfg.val_interval=99")
    run_tool("train.py", recipe, *options, "--work-dir", work_dir, "--resume", *faster)
    assert_same_run(work_dir, tmp_path / "whole")
    tested = run_tool(
        "test.py", recipe, work_dir, "--data-root", seg_data, "--work-dir", tmp_path / "w"
    )
    scores = [re.findall(r"mIoU: ([\d.]+)", x.stdout)[-1] for x in (done, tested)]
    assert scores[0] == scores[1]


def test_evaluation_with_tta_draws_and_writes_label_maps(trained, recipe, seg_data, tmp_path):
    work_dir, _ = trained
    done = run_tool(
        "test.py", recipe, work_dir, "--data-root", seg_data, "--tta", "--work-dir", tmp_path / "w",
        "--show-dir", tmp_path / "show", "--out", tmp_path / "maps",
    )  # fmt: skip
    assert "mIoU" in done.stdout
    assert len(list((tmp_path / "show").rglob("*.png"))) == 4
    maps = sorted((tmp_path / "maps").rglob("*.png"))
    assert len(maps) == 4
    for path in maps:
        size = Image.open(seg_data / "img_dir/val" / path.name).size
        assert Image.open(path).size == size


def test_predictions_are_drawn(trained, recipe, seg_data, tmp_path):
    out = tmp_path / "predictions.png"
    run_tool(
        "show_predictions.py", recipe, trained[0], "--num", 3, "--out", out, "--data-root", seg_data
    )
    pixels = np.array(Image.open(out).convert("RGB"))
    assert pixels.shape[0] > 300
    assert pixels.shape[1] <= 1600
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_predictions_of_a_cached_pipeline_are_the_same(trained, recipe, seg_data, tmp_path):
    cached = tmp_path / "cached.py"
    cached.write_text(f"""_base_ = ["{recipe}"]
*loading, last = _base_.test_dataloader.dataset.pipeline
pipeline = [dict(type="mmonepeace.Cached", transforms=loading), last]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
""")
    drawn = []
    for config in (recipe, cached):
        out = tmp_path / f"{config.stem}.png"
        run_tool(
            "show_predictions.py", config, trained[0], "--num", 2, "--out", out, "--data-root",
            seg_data,
        )  # fmt: skip
        drawn.append(np.array(Image.open(out)))
    np.testing.assert_array_equal(*drawn)


def test_mmseg_api_takes_any_size_and_lists(trained, recipe, tmp_path):
    from mmengine.runner import find_latest_checkpoint
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    newest = find_latest_checkpoint(trained[0])
    model = init_model(str(recipe), newest, device="cpu")
    rng = np.random.default_rng(0)
    sizes = [(97, 513), (16, 16), (200, 150), (97, 513), (33, 47)]
    images = [rng.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    together = inference_model(model, images)
    assert [r.pred_sem_seg.shape for r in together] == sizes
    for image, result in zip(images, together, strict=True):
        single = inference_model(model, image)
        np.testing.assert_allclose(
            single.seg_logits.data.numpy(), result.seg_logits.data.numpy(), rtol=1e-3, atol=1e-4
        )
    paths = []
    for i, image in enumerate(images):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    inferencer = MMSegInferencer(str(recipe), newest, device="cpu")
    result = inferencer(paths, batch_size=3, show=False, out_dir=str(tmp_path / "out"))
    assert [p.shape for p in result["predictions"]] == sizes
    drawn = sorted((tmp_path / "out/vis").iterdir())
    assert [Image.open(path).size[::-1] for path in drawn] == sizes


@pytest.mark.parametrize(
    "options",
    [
        ["--bf16"],
        ["--cfg-options", "model.backbone.with_cp=True", "model.backbone.rpb=shared"],
        [
            "--cfg-options",
            "train_dataloader.dataset.pipeline.3.crop_size=(64,160)",
            "model.data_preprocessor.size_divisor=1",
        ],
        ["--cfg-options", "model.backbone.frozen_stages=2", "model.test_cfg.mode=slide",
         "model.test_cfg.crop_size=(64,96)", "model.test_cfg.stride=(43,64)"],
    ],
    ids=["bf16", "checkpointed, shared table", "rectangular crops", "frozen, sliding window"],
)  # fmt: skip
def test_other_ways_to_train(recipe, seg_data, tmp_path, options):
    if "--cfg-options" not in options:
        options = [*options, "--cfg-options"]
    done = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", tmp_path, *options,
        "train_cfg.max_iters=2", "train_cfg.val_interval=2",
    )  # fmt: skip
    values = losses(done)
    assert len(values) == 2
    assert all(np.isfinite(values))


def test_template_for_own_data_trains_on_a_cpu(seg_data, tmp_path):
    template = (ROOT / "configs/seg/your_dataset.py").read_text()
    names = tuple("abcdefghi")
    for old, new in (
        ("../_base_", f"{ROOT}/configs/_base_"),
        ('("background", "thing")', repr(names)),
        ("[(0, 0, 0), (255, 0, 0)]", repr([(i, i, i) for i in range(9)])),
        ('arch="base"', 'arch="tiny"'),
        ("size = 256", "size = 64"),
        ("batch_size=4, dataset=dict(", 'batch_size=2, dataset=dict(img_suffix=".png", '),
        ("val_dataloader = dict(dataset=dict(", 'val_dataloader = dict(dataset=dict(img_suffix=".png", '),
        ("max_iters = 20000", "max_iters = 600"),
    ):  # fmt: skip
        assert old in template, old
        template = template.replace(old, new)
    recipe = tmp_path / "mine.py"
    recipe.write_text(template)
    done = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", tmp_path / "work",
        "--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=9", "default_hooks.logger.interval=1",
    )  # fmt: skip
    assert len(losses(done)) == 1
    assert "crop_size" not in done.stdout  # the terminal has no config, the work directory has
    assert re.search(r"crop_size=\(\s*64,\s*64", (tmp_path / "work/mine.py").read_text())
    assert len(done.stdout.splitlines()) < 60


def test_pretrained_weights_of_the_official_layout_start_a_run(recipe, seg_data, tmp_path):
    import torch

    from mmonepeace.checkpoint import Conversion, to_official_vision, write
    from mmonepeace.models import OnePeace

    small = OnePeace({"embed_dim": 32, "depth": 4, "num_heads": 2}, img_size=64)
    with torch.no_grad():
        small.adapters["image"].rpb.tables[0].normal_()
    official = to_official_vision(Conversion(small.state_dict(), {"official_layout": "vision"}))
    write(tmp_path / "vision.pkl", official)
    arguments = (recipe, "--data-root", seg_data, "--work-dir", tmp_path / "work")
    done = run_tool(
        "train.py", *arguments, "--checkpoint", tmp_path / "vision.pkl",
        "--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=9",
    )  # fmt: skip
    assert "shared table copied to each block, resampled 52 -> 228 rows" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{recipe}", "--cfg-options", "train_cfg.max_iter=3"], "train_cfg.max_iters"),
        (["{recipe}", "--data-root", "/nowhere"], "/nowhere/img_dir/train"),
        (["{recipe}", "--data-root", "{data}", "--checkpoint", "/no.pkl"], "/no.pkl"),
        (["{recipe}", "--data-root", "{data}", "--resume", "/no.pth"], "/no.pth"),
        (["/no_config.py"], "/no_config.py"),
        (["{recipe}", "--data-root", "{data}", "--cfg-options", "model.decode_head.num_classes=5"],
         "num_classes=9"),
    ],
)  # fmt: skip
def test_mistakes_end_at_once_with_the_fix(recipe, seg_data, tmp_path, arguments, says):
    filled = [a.format(recipe=recipe, data=seg_data) for a in arguments]
    done = run_tool("train.py", *filled, "--work-dir", tmp_path / "work", check=False)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert not (tmp_path / "work").exists()


def test_a_checkpoint_with_other_classes_is_refused(trained, recipe, seg_data, tmp_path):
    import torch

    from mmonepeace.checkpoint import read

    weights, _ = read(trained[0] / "iter_10.pth")
    key = "decode_head.conv_seg.weight"
    weights[key] = weights[key][:5].clone()
    torch.save({"state_dict": weights}, tmp_path / "five.pth")
    done = run_tool(
        "test.py", recipe, tmp_path / "five.pth", "--data-root", seg_data,
        "--work-dir", tmp_path / "w", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert key in done.stderr
    assert "Traceback" not in done.stderr


def test_two_processes_train_on_a_cpu(recipe, seg_data, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "tools/dist_train.sh"), str(recipe), "2", "--data-root", str(seg_data),
         "--work-dir", str(tmp_path), "--cfg-options", "train_cfg.max_iters=4",
         "train_cfg.val_interval=4", "train_dataloader.batch_size=2",
         "model.backbone.drop_path_rate=0.8"],
        capture_output=True, text=True, check=False,
        env=of_scripts(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(done)) == 4
    assert "mIoU" in done.stdout


LONG = [
    "train_cfg.max_iters=600",
    "train_cfg.val_interval=200",
    "default_hooks.checkpoint.interval=1",
]


def test_dry_run_takes_real_steps_and_keeps_nothing(recipe, seg_data, tmp_path):
    work_dir = tmp_path / "work"
    done = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", work_dir, "--dry-run",
        "--cfg-options", *LONG,
    )  # fmt: skip
    said = done.stdout[done.stdout.index("dry run: ") :]
    assert "a batch of 4 whose first has image (3, " in said
    assert re.search(r"memory: up to [\d.]+ GiB", said)
    assert re.search(r"time per step: [\d.e-]+ s with loading, mean of steps 2 to 4;", said)
    assert len(re.search(r"loss: (.*)", said)[1].split(", ")) == 4
    assert "for 600 steps, and 3 validations of 4 batches" in said
    assert "Nothing was trained or written." in said
    assert not work_dir.exists()


def test_dry_run_of_a_resumed_run_counts_what_is_left(trained, recipe, seg_data, tmp_path):
    work_dir = shutil.copytree(trained[0], tmp_path / "work")
    files = sorted(work_dir.rglob("*"))
    done = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", work_dir, "--dry-run", "--resume",
        "--cfg-options", *LONG,
    )  # fmt: skip
    assert "for 590 steps" in done.stdout
    assert "resumed: 10 of 600 steps were done before" in done.stdout
    assert sorted(work_dir.rglob("*")) == files


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["train_dataloader.batch_size=1"],
            r"model\.decode_head: Expected more than 1 .* which is 1,",
        ),
        # A worker raises it, in a process without the objects that say where.
        (
            [
                "train_dataloader.num_workers=1",
                "train_dataloader.dataset.pipeline.3.cat_max_ratio=None",
            ],
            r"train_dataloader\.dataset\.pipeline\.3",
        ),
        (["default_hooks.checkpoint.save_best=mIou"], "save_best is 'mIou'; .*Did you mean 'mIoU'"),
        (["param_scheduler.0.end=700"], r"param_scheduler\.0\.end is 700, but .*max_iters is 600"),
        (
            ["optim_wrapper.optimizer.lr=1e30"],
            r"of step \d is \w+, not finite.*lr, which is 1e\+30",
        ),
    ],
)
def test_dry_run_names_the_key_that_makes_a_step_fail(options, says, recipe, seg_data, tmp_path):
    done = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", tmp_path / "work", "--dry-run",
        "--cfg-options", *LONG, *options, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    line = done.stderr[done.stderr.index("error: ") :].strip()
    assert "\n" not in line
    assert re.search(says, line), line


def test_a_step_that_fails_is_one_line_in_a_run_too_and_its_log_has_the_traceback(
    recipe, seg_data, tmp_path
):
    done = run_tool(
        "train.py", recipe, "--data-root", seg_data, "--work-dir", tmp_path, "--cfg-options",
        "train_dataloader.batch_size=1", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert "error: model.decode_head: Expected more than 1 value per channel" in done.stderr
    (log,) = tmp_path.glob("*/*.log")
    assert f"(traceback: {log})" in done.stderr
    assert "Traceback (most recent call last)" in log.read_text()
