"""Pretraining in two processes gives the result of one, however the model is sharded."""

import os
import shutil
import signal
import subprocess

import pytest
import torch

from mmonepeace import checkpoint
from mmonepeace.datasets import EndlessSampler
from mmonepeace.registry import DATA_SAMPLERS
from tests.conftest import ROOT
from tests.journeys.test_pretraining import (  # noqa: F401  (fixtures)
    _one_thread,
    arguments,
    data,
    logged,
    parameters,
    pretrain,
)
from tests.processes import of_scripts, run_in_two

pytestmark = pytest.mark.slow

BATCH = 4  # of each of two processes
STEPS = 6
STRATEGY = {"ddp": (), "fsdp2": ("--strategy", "fsdp2")}
SHARDED = (*STRATEGY["fsdp2"], "--sharded")
CASES = [(stage, gather) for stage in ("vl", "al") for gather in ("full", "official")]


@DATA_SAMPLERS.register_module()
class TwoRankSampler(EndlessSampler):
    """In each batch of one process: the samples of rank 0 of two, then those of rank 1."""

    def __iter__(self):
        draws = super().__iter__()
        while True:
            batch = [next(draws) for _ in range(2 * BATCH)]
            yield from (*batch[::2], *batch[1::2])


def options(work_dir, *more, config=()):
    """Options of a run without drop path, whose random numbers each process draws for itself."""
    return [
        "--work-dir", work_dir, *more, "--cfg-options", f"train_cfg.max_iters={STEPS}",
        "train_cfg.val_interval=99", f"train_dataloader.batch_size={BATCH}",
        "model.backbone.drop_path_rate=0", "default_hooks.checkpoint.interval=3",
        # AdamW makes noise of gradients that should be zero as large as any other update.
        "optim_wrapper.optimizer.eps=1e-3",
        # The drawings of RetrievalGalleryHook would take longer than the steps.
        "custom_hooks.6.num_queries=1", "custom_hooks.6.num_results=1", *config,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def in_two(data):  # noqa: F811
    """Run the tool in two processes."""
    return lambda stage, given: run_in_two(*arguments(data, stage, *given))


@pytest.fixture(scope="module")
def in_one(pretrain):  # noqa: F811
    """Run the tool in this process, with the batches of two."""

    def run(stage, work_dir, *more, config=()):
        config = (
            *config,
            f"train_dataloader.batch_size={2 * BATCH}",
            f"train_cfg.micro_batch_size={BATCH}",
            "train_dataloader.sampler.type=mmonepeace.TwoRankSampler",
        )
        assert pretrain(stage, *options(work_dir, *more, config=config)) == 0

    return run


@pytest.fixture(scope="module")
def runs(in_one, in_two, tmp_path_factory):
    """Folder with work directories PROCESSES/STAGE_GATHER, such as fsdp2/vl_full."""
    root = tmp_path_factory.mktemp("runs")
    start = root / "one/vl_full" / f"iter_{STEPS}.pth"

    def settings(stage, gather):
        return ("--stage-one", start) if stage == "al" else (), (f"model.gather={gather}",)

    for stage, gather in CASES:
        more, config = settings(stage, gather)
        in_one(stage, root / f"one/{stage}_{gather}", *more, config=config)
    for stage, gather in CASES:
        more, config = settings(stage, gather)
        for name, strategy in STRATEGY.items():
            work_dir = root / name / f"{stage}_{gather}"
            in_two(stage, options(work_dir, *strategy, *more, config=config))
    in_two("vl", options(root / "sharded/vl_full", *SHARDED, config=["model.gather=full"]))
    return root


def assert_alike(got, expected):
    """step -> losses, gradient norms and learning rates, to 1e-5; accuracies, to a sample.

    Where two candidates are as good but for the last digit, either may be the best.
    """
    assert list(got) == list(expected) != []
    for step, values in expected.items():
        assert list(got[step]) == list(values)
        for name, value in values.items():
            tie = 1 / (2 * BATCH) if name.startswith("acc") else 0
            assert got[step][name] == pytest.approx(value, rel=1e-5, abs=1e-5 + tie), name


def assert_close(got, expected):
    """Parameters of checkpoints, to 1e-5."""
    got, expected = parameters(got), parameters(expected)
    assert list(got) == list(expected) != []
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_same(got, expected):
    """The same bits."""
    got, expected = parameters(got), parameters(expected)
    assert list(got) == list(expected) != []
    assert not [name for name in expected if not torch.equal(got[name], expected[name])]


@pytest.mark.parametrize(("stage", "gather"), CASES)
@pytest.mark.parametrize("strategy", STRATEGY)
def test_two_processes_learn_what_one_does(runs, strategy, stage, gather):
    got, expected = (runs / name / f"{stage}_{gather}" for name in (strategy, "one"))
    assert_alike(logged(got), logged(expected))
    assert_close(got / f"iter_{STEPS}.pth", expected / f"iter_{STEPS}.pth")
    first, last = (parameters(got / f"iter_{step}.pth") for step in (3, STEPS))
    moved = max((last[name] - first[name]).abs().max().item() for name in first)
    assert moved > 1e-3  # otherwise the comparison would prove little


@pytest.mark.parametrize("gather", ["full", "official"])
@pytest.mark.parametrize("strategy", STRATEGY)
def test_frozen_parameters_keep_their_bits(runs, strategy, gather):
    before = parameters(runs / f"one/vl_full/iter_{STEPS}.pth")
    after = parameters(runs / strategy / f"al_{gather}/iter_{STEPS}.pth")
    frozen = [
        name
        for name in before.keys() & after.keys()
        if not name.startswith(("decoder", "mask_", "logit_scale"))
    ]
    assert {"projections.text.weight", "backbone.layers.0.attn.q_proj.weight"} <= set(frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)


def test_a_file_of_shards_is_laid_out_as_that_of_one_process(runs):
    got, expected = (
        torch.load(runs / name / f"vl_full/iter_{STEPS}.pth", weights_only=True)
        for name in ("fsdp2", "one")
    )

    def layout(value):
        if isinstance(value, dict):
            return {key: layout(item) for key, item in value.items()}
        return value.shape if isinstance(value, torch.Tensor) else type(value)

    for key in ("state_dict", "optimizer", "param_schedulers"):
        assert layout(got[key]) == layout(expected[key])
    assert got.keys() == expected.keys()


def test_a_checkpoint_in_shards_holds_the_same(runs):
    assert logged(runs / "sharded/vl_full") == logged(runs / "fsdp2/vl_full")
    folder, file = (runs / name / f"vl_full/iter_{STEPS}.pth" for name in ("sharded", "fsdp2"))
    assert folder.is_dir()
    assert file.is_file()
    assert_same(folder, file)
    sizes = [path.stat().st_size for path in checkpoint.run_files(folder)]
    assert len(sizes) == 2
    assert max(sizes) < 0.7 * file.stat().st_size
    for path in checkpoint.run_files(folder):
        torch.load(path, weights_only=True, mmap=True)


def left_at(work_dir, source, step=3):
    """A work directory as a run leaves it after some steps."""
    path = source / f"iter_{step}.pth"
    work_dir.mkdir()
    (shutil.copytree if path.is_dir() else shutil.copy)(path, work_dir / path.name)
    (work_dir / "last_checkpoint").write_text(str(path))
    return work_dir


@pytest.fixture(scope="module")
def resumed(runs, in_two, tmp_path_factory):
    """Runs that two processes finish: BEGUN-FINISHED."""
    root = tmp_path_factory.mktemp("resumed")
    plan = {
        "sharded-sharded": ("sharded", SHARDED),
        "sharded-ddp": ("sharded", STRATEGY["ddp"]),
        "one-fsdp2": ("one", STRATEGY["fsdp2"]),
    }
    for name, (source, strategy) in plan.items():
        work_dir = left_at(root / name, runs / source / "vl_full")
        in_two("vl", options(work_dir, *strategy, "--resume", config=["model.gather=full"]))
    return root


def steps_after(work_dir, step=3):
    return {number: values for number, values in logged(work_dir).items() if number > step}


def test_shards_are_resumed_bit_for_bit(runs, resumed):
    uninterrupted = runs / "sharded/vl_full"
    assert steps_after(resumed / "sharded-sharded") == steps_after(uninterrupted)
    assert_same(resumed / f"sharded-sharded/iter_{STEPS}.pth", uninterrupted / f"iter_{STEPS}.pth")


@pytest.mark.parametrize("name", ["sharded-ddp", "one-fsdp2"])
def test_another_strategy_resumes_alike(runs, resumed, name):
    assert_alike(steps_after(resumed / name), steps_after(runs / "one/vl_full"))
    assert_close(resumed / name / f"iter_{STEPS}.pth", runs / f"one/vl_full/iter_{STEPS}.pth")


@pytest.mark.parametrize("source", ["sharded", "fsdp2", "ddp"])
def test_one_process_resumes_alike(runs, in_one, tmp_path, source):
    work_dir = left_at(tmp_path / "work", runs / source / "vl_full")
    in_one("vl", work_dir, "--resume", config=["model.gather=full"])
    assert_alike(steps_after(work_dir), steps_after(runs / "one/vl_full"))
    assert_close(work_dir / f"iter_{STEPS}.pth", runs / f"one/vl_full/iter_{STEPS}.pth")


DYING = """
import os, signal
from mmonepeace.engine import StepSeedHook
seed = StepSeedHook.before_train_iter
def seed_or_die(self, runner, *args, **kwargs):
    if runner.iter == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    seed(self, runner, *args, **kwargs)
StepSeedHook.before_train_iter = seed_or_die
"""


def test_a_killed_run_of_shards_is_resumed_bit_for_bit(runs, in_two, data, tmp_path):  # noqa: F811
    (data / "dying.py").write_text(DYING)
    (data / "dies.py").write_text('_base_ = ["vl.py"]\ncustom_imports = dict(imports=["dying"])\n')
    given = options(tmp_path, *SHARDED, config=["model.gather=full"])
    _, config, *rest = arguments(data, "dies", *given)
    python_path = f"{data}:{os.environ.get('PYTHONPATH', '')}"
    killed = subprocess.run(
        [str(ROOT / "tools/dist_pretrain.sh"), config, "2", *rest],
        cwd=ROOT, text=True, capture_output=True, check=False,
        env=of_scripts(PYTHONPATH=python_path),
    )  # fmt: skip
    assert killed.returncode != 0
    assert max(logged(tmp_path)) == 5
    assert f"-{signal.SIGKILL}" in killed.stderr
    in_two("vl", ["--resume", *given])
    assert logged(tmp_path) == logged(runs / "sharded/vl_full")
    assert_same(tmp_path / f"iter_{STEPS}.pth", runs / f"sharded/vl_full/iter_{STEPS}.pth")
