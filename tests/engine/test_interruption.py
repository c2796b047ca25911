"""Signals during training, with a model of one layer."""

import multiprocessing
import os
import signal
import sys

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import Dataset

from mmonepeace import checkpoint
from mmonepeace.engine import FinetuneRunner
from mmonepeace.engine.interruption import resume_command
from mmonepeace.engine.processes import exit_distributed
from mmonepeace.exit_status import exit_status
from mmonepeace.registry import DATASETS, METRICS, MODELS
from tests.processes import free_port, spawn


@MODELS.register_module()
class InterruptedModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        y = self.layer(torch.stack(inputs))
        return {"loss": y.square().mean()} if mode == "loss" else list(y)


@DATASETS.register_module()
class InterruptedData(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return {"inputs": torch.full((2,), 0.1 * i)}


@METRICS.register_module()
class InterruptedMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"number": len(results)}


class SendSignals(Hook):
    """Send a signal to this process and its workers, as launchers do."""

    def __init__(self, when, index, number):
        self.when, self.index, self.number = when, index, number

    def send(self, when, runner, index):
        if (when, index) == (self.when, self.index):
            children = [c.pid for c in multiprocessing.active_children() if c.daemon]
            for process in (*children, os.getpid()):
                os.kill(process, self.number)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.send("train", runner, runner.iter)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.send("val", runner, batch_idx)


def make_runner(folder, hook, workers=0, interval=100, **options):
    """8 steps with an evaluation after the fourth."""
    loader = dict(
        batch_size=2,
        num_workers=workers,
        persistent_workers=workers > 0,
        dataset=dict(type="mmonepeace.InterruptedData"),
        collate_fn=dict(type="pseudo_collate"),
    )
    return FinetuneRunner(
        model=dict(type="mmonepeace.InterruptedModel"),
        work_dir=str(folder),
        train_dataloader={**loader, "sampler": dict(type="InfiniteSampler")},
        train_cfg=dict(by_epoch=False, max_iters=8, val_interval=4),
        val_dataloader={**loader, "sampler": dict(type="DefaultSampler", shuffle=False)},
        val_cfg=dict(),
        val_evaluator=dict(type="mmonepeace.InterruptedMetric"),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=interval),
            interruption=dict(type="mmonepeace.InterruptionHook"),
        ),
        custom_hooks=[hook],
        log_level="ERROR",
        randomness=dict(seed=0),
        **options,
    )


def train_to_status(runner):
    def run():
        runner.train()

    return exit_status(run)


@pytest.fixture
def train(tmp_path, request):
    """Train: (when to send a signal, options of the runner) -> exit status."""

    def run(when="never", index=0, number=signal.SIGTERM, **options):
        hook = SendSignals(when, index, number)
        name = request.node.name
        return train_to_status(make_runner(tmp_path, hook, experiment_name=name, **options))

    return run


def weight(path):
    return checkpoint.read(path)[0]["layer.weight"]


@pytest.mark.parametrize("program", ["mmonepeace train", "tools/train.py"])
def test_the_command_that_resumes_is_the_one_that_ran(program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "a b.py", "--resume", "x.pth", "--work-dir", "w"])
    python = "python " if program.endswith(".py") else ""
    expected = f"{python}{program} 'a b.py' --work-dir w --resume"
    assert resume_command("w") == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint(
    number, workers, train, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "a.py", "--resume", "x.pth", "--bf16"])
    assert train("train", 2, number, workers=workers) == 128 + number
    path = tmp_path / "iter_3.pth"
    assert (tmp_path / "last_checkpoint").read_text() == str(path)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{number.name}: stopped after step 3 of 8, saved as {path}. Go on with: python "
        f"tools/train.py a.py --bf16 --work-dir {tmp_path} --resume"
    )


def test_resumed_it_ends_as_if_nothing_had_happened(train, tmp_path):
    assert train("train", 2) == 143
    assert train(resume=True) == 0
    resumed = weight(tmp_path / "iter_8.pth")
    for path in tmp_path.glob("iter_*"):
        path.unlink()
    assert train() == 0
    assert torch.equal(resumed, weight(tmp_path / "iter_8.pth"))


def train_rank(rank, folder, port):
    """The second of two processes gets a signal, and both write their exit status."""
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    hook = SendSignals("train" if rank else "never", 2, signal.SIGUSR1)
    torch.distributed.init_process_group("gloo")
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
    runner = make_runner(folder, hook, launcher="pytorch", cfg=dict(model_wrapper_cfg=wrapper))
    (folder / f"status_{rank}").write_text(str(train_to_status(runner)))
    exit_distributed(0)


def test_all_processes_stop_at_the_step_in_which_one_received_a_signal(tmp_path):
    spawn(train_rank, (tmp_path, free_port()), 2)
    status = str(128 + signal.SIGUSR1)
    assert [(tmp_path / f"status_{rank}").read_text() for rank in range(2)] == [status, status]
    assert [path.name for path in tmp_path.glob("iter_*")] == ["iter_3.pth"]


def test_an_evaluation_is_left_with_its_step_saved(train, tmp_path):
    assert train("val", 1, workers=1) == 143
    assert [path.name for path in tmp_path.glob("iter_*")] == ["iter_4.pth"]
    assert checkpoint.read_run(tmp_path / "iter_4.pth")["meta"]["iter"] == 4


def test_a_step_that_was_saved_is_not_saved_again(train, tmp_path, monkeypatch):
    saved = []
    save = FinetuneRunner.save_checkpoint
    monkeypatch.setattr(
        FinetuneRunner, "save_checkpoint", lambda *a, **k: (saved.append(a[2]), save(*a, **k))
    )
    assert train("train", 2, interval=3) == 143
    assert saved == ["iter_3.pth"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("t.py a.py", "t.py a.py --work-dir w --resume"),
        ("t.py a.py --work-dir=v --resume", "t.py a.py --work-dir=v --resume"),
        ("t.py --resume=x.pth a.py --work-dir v", "t.py a.py --work-dir v --resume"),
        ("t.py a.py --resume --bf16", "t.py a.py --bf16 --work-dir w --resume"),
        ("t.py a.py --resume x.pth --cfg-options a=1", "t.py a.py --cfg-options a=1 --work-dir w --resume"),
    ],
)  # fmt: skip
def test_the_command_that_goes_on(given, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", given.split())
    assert resume_command("w") == f"python {expected}"
