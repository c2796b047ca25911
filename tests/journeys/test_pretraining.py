"""Both stages of pretraining from the command line, on a tiny model and tiny data."""

import csv
import errno
import json
import os
import re
import signal
import sys
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmonepeace import checkpoint
from mmonepeace.commands import pretrain as pretrain_command
from mmonepeace.datasets import tokenizer
from mmonepeace.engine import StepSeedHook
from tests.conftest import ROOT, SEGMENTATION
from tests.processes import run_in_two, run_tool

RECIPE = """
_base_ = ["{root}/configs/tiny/onepeace-tiny_{base}.py"]
model = dict(
    learn_words=False,  # as released
    learn_all=False,
    denoising_weight=1.0,
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=32, depth=3, num_heads=2, ffn_dim=48),
        drop_path_rate=0.5,
        modalities=dict(_delete_=True, text=dict(vocab_size=300, num_buckets=8), {adapter}),
    ),
    decoder=dict(embed_dim=32, ffn_dim=48, num_heads=2),
)
train_dataloader = dict(
    batch_size=6, num_workers=0, persistent_workers=False, dataset=dict(max_broken=0.0)
)
val_dataloader = dict(batch_size=5, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4))
train_cfg = dict(max_iters=12, val_interval=6)
"""
STAGES = {
    "vl": ("vl_emoji-64", "image={}"),
    "al": ("al_gm-instruments", "audio=dict(feature_dim=8, pos_groups=4)"),
}
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "grey": (90, 90, 90)}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """So small a model gains nothing from more; and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixteen squares with captions and tones, a tokenizer, a recipe for each stage."""
    root = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        colour, size = list(COLOURS)[i % 4], ("small", "large", "round", "flat")[i // 4]
        noise = rng.integers(-30, 30, (40, 40 + i, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        tone = np.sin(np.arange(9000 + 500 * i) * 0.02 * (i + 1)) / 3
        soundfile.write(root / f"{i}.wav", tone, 16_000)
        text = f"a {size} {colour} square"
        rows.append((f"{i}.png", text, f"{i}.wav", text))
    for split in ("train", "val"):
        with open(root / f"{split}.tsv", "w", newline="") as file:
            table = csv.writer(file, delimiter="\t")
            table.writerows([("image", "caption", "audio", "label"), *rows])
    tokenizer.train([row[1] for row in rows], 300).save(root / "tokenizer.json")
    for stage, (base, adapter) in STAGES.items():
        text = RECIPE.format(root=ROOT, base=base, adapter=adapter)
        (root / f"{stage}.py").write_text(text)
    return root


@pytest.fixture(scope="module")
def pretrain(data):
    """Run the command in this process: (stage, options) -> exit status."""

    def run(stage, *options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", arguments(data, stage, *options))
            return pretrain_command.main()

    return run


def arguments(data, stage, *options):
    return [
        "pretrain.py", str(data / f"{stage}.py"), "--data-root", str(data),
        "--tokenizer", str(data / "tokenizer.json"), *map(str, options),
    ]  # fmt: skip


def logged(work_dir):
    """step -> losses, gradient norm and whatever else does not depend on time."""
    steps = {}
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            if "loss" in values:
                for name in ("time", "data_time", "pairs_per_second", "memory"):
                    values.pop(name, None)
                steps[values.pop("step")] = values
    return steps


def parameters(path):
    return checkpoint.read(path)[0]


@pytest.fixture(scope="module")
def stage_one(pretrain, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("vl")
    assert pretrain("vl", "--work-dir", work_dir) == 0
    return work_dir


def test_a_diverging_run_ends_and_leaves_a_finite_checkpoint(pretrain, tmp_path, capsys):
    checkpoints = ["interval=1", "max_keep_ckpts=1"]
    options = [f"default_hooks.checkpoint.{option}" for option in checkpoints]
    options.append("optim_wrapper.optimizer.lr=1e6")
    assert pretrain("vl", "--work-dir", tmp_path, "--cfg-options", *options) == 2
    error = capsys.readouterr().err
    (last,) = re.findall(r"the last checkpoint, with finite weights: (.*)", error)
    assert all(value.isfinite().all() for value in parameters(last).values())
    assert str(tmp_path) in last
    assert ".png" in error  # the files of the batch
    assert "gradients that are not finite at step" in error


def test_a_full_disk_ends_a_run_and_names_the_checkpoint_that_is_left(
    pretrain, tmp_path, capsys, monkeypatch
):
    write = torch.save

    def write_until_full(content, file):
        if content["meta"]["iter"] == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(content, file)

    monkeypatch.setattr(torch, "save", write_until_full)
    options = ("default_hooks.checkpoint.interval=2", "train_cfg.val_interval=99")
    assert pretrain("vl", "--work-dir", tmp_path, "--cfg-options", *options) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert f"the disk is full: {tmp_path / 'iter_6.pth'} (No space left on device)" in line
    assert f"The last complete checkpoint: {tmp_path / 'iter_4.pth'}." in line
    assert line.endswith("--resume")
    assert {path.name for path in tmp_path.glob("*iter*")} == {"iter_2.pth", "iter_4.pth"}
    assert not list(tmp_path.glob(".*.part"))


def test_the_tokenizer_is_kept_beside_the_checkpoints(stage_one, data):
    assert (stage_one / "tokenizer.json").read_text() == (data / "tokenizer.json").read_text()


def test_stage_one_lowers_the_loss_and_is_evaluated(stage_one):
    steps = logged(stage_one)
    assert list(steps) == list(range(1, 13))
    contrast = [values["loss_text_image"] for values in steps.values()]
    assert contrast[-1] < contrast[0]
    assert steps[12]["loss"] < steps[1]["loss"]
    assert {
        "loss_denoise_text", "loss_denoise_image", "loss_denoise_joint_text",
        "loss_denoise_joint_image", "acc_text_to_image", "logit_scale", "grad_norm", "lr",
    } <= set(steps[12])  # fmt: skip
    log = next(stage_one.glob("*/*.log")).read_text()
    for text in (
        "eta:", "pairs_per_second:", "memory:", "retrieval/image_to_text_R@1:", "zero_shot/top5:",
    ):  # fmt: skip
        assert text in log
    assert "retrieval/image_to_text_R@1_chance: 6.2500" in log
    assert steps[12]["broken"] == 0
    (events,) = stage_one.glob("*/vis_data/events.out.tfevents*")
    assert b"loss_denoise_joint_image" in events.read_bytes()
    drawings = {path.name for path in stage_one.glob("*/vis_data/vis_image/*.png")}
    names = ("retrieval_image_to_text", "retrieval_text_to_image")
    assert drawings == {f"{name}_{step}.png" for name in names for step in (6, 12)}


def die_at_step_10():
    """In a process of its own: the next run ends there without a word."""
    seed = StepSeedHook.before_train_iter

    def seed_or_die(self, runner, *args, **kwargs):
        if runner.iter == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        seed(self, runner, *args, **kwargs)

    StepSeedHook.before_train_iter = seed_or_die


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """Work directory of the run of `stage_one`, killed in its eleventh step."""
    work_dir = tmp_path_factory.mktemp("killed")
    done = run_tool(
        *arguments(data, "vl", "--work-dir", work_dir), prepare=die_at_step_10, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert max(logged(work_dir)) == 10
    return work_dir


def test_a_killed_run_is_resumed_bit_for_bit(stage_one, killed, pretrain, capsys):
    newest = killed / "iter_8.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])  # and its newest checkpoint is damaged
    options = ["train_dataloader.num_workers=2"]  # which must not matter
    assert pretrain("vl", "--work-dir", killed, "--resume", "--cfg-options", *options) == 0
    out = capsys.readouterr().out
    assert "iter_8.pth is damaged" in out
    assert "iter_6.pth" in out  # the best one, of the evaluation at step 6
    assert logged(killed) == logged(stage_one)
    expected, got = (parameters(w / "iter_12.pth") for w in (stage_one, killed))
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


SHARDS = """
_base_ = ["vl.py"]
train_dataloader = dict(
    num_workers={workers},
    sampler=None,
    dataset=dict(
        _delete_=True,
        type="mmonepeace.ShardDataset",
        shards="shards",
        modalities=("image", "text"),
        batch_size=6,
        streams=2,
        buffer_size=4,
        pipeline=[
            dict(type="mmonepeace.LoadImage", size=64, crop_scale=(0.9, 1.0)),
            dict(type="mmonepeace.Tokenize", tokenizer="x"),
            dict(type="mmonepeace.MaskTokens", stage="vl", tokenizer="x"),
            dict(type="mmonepeace.PackModalities"),
        ],
    ),
)
"""


def test_a_stream_of_shards_is_resumed_where_it_was(data, pretrain, tmp_path):
    samples = sorted(data.glob("*.png"))
    (data / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(data / f"shards/{shard}.tar", "w") as tar:
            for path in samples[shard::2]:
                caption = tmp_path / f"{path.stem}.txt"
                caption.write_text(f"a {path.stem} square")
                tar.add(path, path.name)
                tar.add(caption, caption.name)
    for workers in (0, 2):
        (data / f"shards_{workers}.py").write_text(SHARDS.format(workers=workers))
    options = ["--cfg-options", "train_cfg.val_interval=99"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert pretrain("shards_2", "--work-dir", whole, *options, "train_cfg.max_iters=6") == 0
    assert pretrain("shards_0", "--work-dir", resumed, *options, "train_cfg.max_iters=4") == 0
    assert (
        pretrain("shards_2", "--work-dir", resumed, "--resume", *options, "train_cfg.max_iters=6")
        == 0
    )
    assert len(logged(whole)) == 6
    assert logged(resumed) == logged(whole)


@pytest.mark.slow
def test_two_processes_are_resumed_bit_for_bit_too(data, tmp_path):
    def run(work_dir, steps, *options):
        run_in_two(
            *arguments(data, "vl", *options), "--work-dir", work_dir, "--cfg-options",
            f"train_cfg.max_iters={steps}", "train_cfg.val_interval=4",
        )  # fmt: skip

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(whole, 8)
    run(resumed, 4)
    run(resumed, 8, "--resume")
    assert len(logged(whole)) == 8
    assert logged(resumed) == logged(whole)
    expected, got = (parameters(w / "iter_8.pth") for w in (whole, resumed))
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_stage_two_learns_audio_and_leaves_the_rest_untouched(stage_one, pretrain, tmp_path):
    start = stage_one / "iter_12.pth"
    assert pretrain("al", "--stage-one", start, "--work-dir", tmp_path) == 0
    steps = logged(tmp_path)
    assert steps[12]["loss_text_audio"] < steps[1]["loss_text_audio"]
    assert steps[12]["loss"] < steps[1]["loss"]
    before, first, last = map(
        parameters, (start, tmp_path / "iter_6.pth", tmp_path / "iter_12.pth")
    )
    frozen = [
        name
        for name in before.keys() & last.keys()
        if not name.startswith(("decoder", "mask_", "logit_scale"))
    ]
    assert {"projections.text.weight", "backbone.layers.0.attn.q_proj.weight"} <= set(frozen)
    assert all(torch.equal(before[name], last[name]) for name in frozen)
    trained = [name for name in last if name not in frozen and last[name].ndim > 1]
    idle = {n for n in trained if torch.equal(first[n], last[n])}
    assert not {n for n in idle if "audio" in n.split(".")} - {"backbone.adapters.audio.mask_embed"}


def test_stage_two_without_the_first_is_warned_of(pretrain, tmp_path, capsys):
    options = ["train_cfg.max_iters=1", "train_cfg.val_interval=9"]
    assert pretrain("al", "--work-dir", tmp_path, "--bf16", "--cfg-options", *options) == 0
    out = capsys.readouterr().out
    assert "--stage-one CKPT" in out
    assert len(logged(tmp_path)) == 1


def test_dry_run_takes_real_steps_and_keeps_nothing(pretrain, tmp_path, capsys):
    work_dir = tmp_path / "work"
    assert pretrain("vl", "--work-dir", work_dir, "--dry-run", "--stage", "vl") == 0
    said = capsys.readouterr().out
    said = said[said.index("dry run: ") :]
    assert "16 training samples, a batch of 6 whose first has image (3, 64, 64), text (" in said
    assert "for 12 steps, and 2 validations of 4 batches" in said
    assert not work_dir.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cfg-options", "train_cfg.max_iter=3"], "train_cfg.max_iters"),
        (["--cfg-options", "stage_on=x.pth"], "stage_one"),
        (["--cfg-options", "tokenizer=x.json"], "train_dataloader.dataset.pipeline.1.tokenizer"),
        (["--data-root", "/nowhere"], "/nowhere/train.tsv"),
        (["--tokenizer", "/nowhere.json"], "mmonepeace train-tokenizer"),
        (["--stage-one", "/no.pth"], "load_from=CKPT"),
        (["--stage", "al"], "Use a recipe of that stage"),
        (["--resume", "/no.pth"], "--resume without a path takes the newest"),
        (
            ["--cfg-options", "model.backbone.modalities.text.vocab_size=270"],
            "vocab_size is 270. fix: set it to",
        ),
        (["--cfg-options", "train_dataloader.dataset.columns.text=title"], "title"),
        (
            ["--cfg-options", "val_dataloader.dataset.data_prefix.path=/images"],
            "the folder /images (path of data_prefix) does not",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistakes_end_at_once_with_the_fix(pretrain, tmp_path, capsys, options, says):
    work_dir = tmp_path / "work"
    assert pretrain("vl", "--work-dir", work_dir, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert not work_dir.exists()


def test_a_missing_first_stage_is_named(pretrain, tmp_path, capsys):
    assert pretrain("al", "--work-dir", tmp_path / "work", "--stage-one", "/no.pth") == 2
    error = capsys.readouterr().err
    assert "/no.pth does not exist" in error
    assert "--stage-one CKPT" in error
    assert not (tmp_path / "work").exists()


def test_a_recipe_of_another_task_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pretrain.py", str(SEGMENTATION)])
    assert pretrain_command.main() == 2
    assert "mmonepeace train" in capsys.readouterr().err
