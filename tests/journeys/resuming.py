"""What tests of resumed runs share."""

import os
import shutil
import signal

import torch

from mmonepeace import checkpoint
from mmonepeace.engine import StepSeedHook


def die_at_step_8():
    """In a process of its own: the next run ends there without a word."""
    seed = StepSeedHook.before_train_iter

    def seed_or_die(self, runner, *args, **kwargs):
        if runner.iter == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        seed(self, runner, *args, **kwargs)

    StepSeedHook.before_train_iter = seed_or_die


def left_by_a_kill(work_dir, source):
    """A work directory with the checkpoint of step 5, as a run leaves it that is killed then."""
    work_dir.mkdir()
    shutil.copy(source / "iter_5.pth", work_dir)
    return work_dir


def assert_same_run(work_dir, expected, step=10):
    """Weights and the state of the optimiser have the same bits."""
    got, expected = (
        dict(_tensors(checkpoint.read_run(folder / f"iter_{step}.pth")))
        for folder in (work_dir, expected)
    )
    assert list(got) == list(expected) != []
    assert not [name for name in expected if not torch.equal(got[name], expected[name])]


def _tensors(content):
    yield from content["state_dict"].items()
    for index, state in content["optimizer"]["state"].items():
        for name, value in state.items():
            yield f"{name} of {index}", value
