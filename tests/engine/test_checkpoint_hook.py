"""Which checkpoints there are at each moment of a run of one layer."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger

from mmonepeace import checkpoint
from mmonepeace.checks import CheckError
from mmonepeace.engine import CheckpointHook, FinetuneRunner
from tests.engine.toy_run import Killed, ToyScore, config, train


def options(keep=1, best="score", **hook):
    """A checkpoint every second step, an evaluation every fourth one, which is always better."""
    loader = dict(
        batch_size=1,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="ToyData"),
    )
    return dict(
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook", by_epoch=False, interval=2, max_keep_ckpts=keep,
                save_best=best, rule="greater", **hook,
            )
        ),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=8, val_interval=4),
        val_cfg=dict(type="ValLoop"), val_dataloader=loader, val_evaluator=dict(type="ToyScore"),
    )  # fmt: skip


def files(work_dir):
    return sorted(p.name for p in Path(work_dir).iterdir() if p.suffix in (".pth", ".part"))


@pytest.fixture
def at_each_write(monkeypatch, tmp_path):
    """Files of the work directory before and after each of its changes, in turn."""
    seen = []

    def watch(module, name):
        change = getattr(module, name)

        def watched(*args, **kwargs):
            seen.append(files(tmp_path))
            change(*args, **kwargs)
            seen.append(files(tmp_path))

        monkeypatch.setattr(module, name, watched)

    watch(checkpoint, "write_run")
    watch(hook_module, "remove_checkpoint")
    return seen


from mmonepeace.engine import checkpoint_hook as hook_module


def is_complete(path):
    with suppress(Exception):
        return bool(torch.load(path, weights_only=True)["state_dict"])
    return False


@pytest.mark.parametrize(
    ("interval", "by_epoch", "length", "says"),
    [
        (1, True, 1, ""), (-1, True, 1, ""), (1, True, 5, ""), (1, False, 10, ""),
        (-1, True, 5, "5 epochs saves checkpoints at its end only: .* Every 1: "),
        (50, False, 100, "100 steps saves checkpoints every 50 steps: .* Every 10: "),
    ],
)  # fmt: skip
def test_what_a_kill_costs_is_said_where_that_can_be_less(interval, by_epoch, length, says):
    said = []
    logger = SimpleNamespace(warning=said.append)
    runner = SimpleNamespace(max_epochs=length, max_iters=length, logger=logger)
    CheckpointHook(interval, by_epoch)._say_interval(runner)
    assert len(said) == bool(says)
    assert re.search(says, "".join(said))


def test_at_each_moment_there_is_a_complete_one_and_a_best_one(tmp_path, at_each_write):
    train(tmp_path, **options())
    assert files(tmp_path) == ["best_score_iter_8.pth", "iter_8.pth"]
    assert ["iter_2.pth", "iter_4.pth"] in at_each_write
    had_one = had_best = False
    for names in at_each_write:
        had_one |= any(name.startswith("iter") for name in names)
        had_best |= any(name.startswith("best") for name in names)
        assert had_one == any(name.startswith("iter") for name in names)
        assert had_best == any(name.startswith("best") for name in names)
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_8.pth")


def killed_in(work_dir, monkeypatch, call, before, **given):
    """A run that ends before or after a number of file operations."""
    count = 0

    def counting(change):
        def counted(*args, **kwargs):
            nonlocal count
            count += 1
            if count == call and before:
                raise Killed
            change(*args, **kwargs)
            if count == call:
                raise Killed

        return counted

    with monkeypatch.context() as patch:
        for module, name in (
            (checkpoint, "write_run"),
            (hook_module, "write_note"),
            (hook_module, "remove_checkpoint"),
        ):
            patch.setattr(module, name, counting(getattr(module, name)))
        ToyScore.score = 0
        train(work_dir, die=99, **given)
    return count


def test_whenever_a_run_is_killed_it_ends_with_the_same_files(tmp_path, monkeypatch):
    given = options()
    calls = killed_in(tmp_path / "whole", monkeypatch, 0, True, **given)
    assert calls > 15
    for call in range(1, calls + 1, 3):
        work_dir = tmp_path / str(call)
        killed_in(work_dir, monkeypatch, call, call % 2 == 0, **given)
        for name in files(work_dir):
            assert is_complete(work_dir / name)
        moved = shutil.move(work_dir, tmp_path / f"moved_{call}")
        train(moved, resume=True, **given)
        assert files(moved) == ["best_score_iter_8.pth", "iter_8.pth"]


def test_several_scores_have_a_best_one_each(tmp_path):
    train(tmp_path, **options(keep=2, best=["score", "other"]))
    assert files(tmp_path) == [
        "best_other_iter_4.pth", "best_score_iter_8.pth", "iter_6.pth", "iter_8.pth",
    ]  # fmt: skip


def test_a_score_that_is_not_there_ends_no_run(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(MMLogger, "warning", lambda self, text, *_: said.append(text))
    train(tmp_path, **options(best="scores"))
    assert files(tmp_path) == ["iter_8.pth"]
    text = "save_best is scores, which is not among what was evaluated (score, other)"
    assert sum(text in line for line in said) == 2


def test_what_a_killed_write_left_is_removed(tmp_path):
    train(tmp_path, die=3, **options())
    (tmp_path / ".iter_4.pth.part").write_bytes(b"half")
    (tmp_path / ".last_checkpoint.part").write_bytes(b"half")
    train(tmp_path, die=3, resume=True, **options())
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_fewer_are_kept_from_now_on(tmp_path):
    train(tmp_path, die=7, **options(keep=3, best=None))
    assert files(tmp_path) == ["iter_2.pth", "iter_4.pth", "iter_6.pth"]
    train(tmp_path, die=7, resume=True, **options(keep=1, best=None))
    assert files(tmp_path) == ["iter_6.pth"]


def test_resuming_from_elsewhere_removes_nothing_here(tmp_path):
    train(tmp_path / "a", die=5, **options(best=None))
    train(tmp_path / "b", die=3, **options(best=None))
    train(
        tmp_path / "b", die=5, resume=True, load_from=str(tmp_path / "a/iter_4.pth"),
        **options(best=None),
    )  # fmt: skip
    assert files(tmp_path / "b") == ["iter_2.pth"]


def test_a_checkpoint_cannot_have_other_files_removed(tmp_path):
    train(tmp_path / "run", die=5, **options())
    victims = [tmp_path / "victim.pth", tmp_path / "iter_1.pth", tmp_path / "run/notes.txt"]
    for victim in victims:
        victim.write_text("mine")
    path = tmp_path / "run/iter_4.pth"
    content = checkpoint.read_run(path)
    content["message_hub"]["runtime_info"] |= {
        "outdated_ckpts": [str(victims[0]), "../iter_1.pth", "notes.txt", 7],
        "keep_ckpt_ids": ["../../victim", "1", 4],
        "best_ckpt": str(tmp_path / "iter_1.pth"),
    }
    checkpoint.write_run(path, content)
    train(tmp_path / "run", resume=True, **options())
    assert all(victim.read_text() == "mine" for victim in victims)


def test_the_note_may_be_in_another_folder_than_the_checkpoints(tmp_path):
    given = options(out_dir=str(tmp_path / "big_disk"))
    train(tmp_path / "run", die=5, **given)
    assert files(tmp_path / "run") == []
    assert files(tmp_path / "big_disk/run") == ["best_score_iter_4.pth", "iter_4.pth"]
    runner = train(tmp_path / "run", resume=True, **given)
    assert runner._load_from.endswith("big_disk/run/iter_4.pth")


def test_folders_and_names_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(CheckError, match="out_dir is s3://bucket, expected a local folder"):
        train(tmp_path, **options(out_dir="s3://bucket"))
    with pytest.raises(ValueError, match=r"filename_tmpl is 'x_\{\}.pth', expected iter_"):
        CheckpointHook(filename_tmpl="x_{}.pth")


def test_the_hook_of_mmengine_is_replaced_and_steps_are_seeded(tmp_path):
    runner = FinetuneRunner.from_cfg(config(tmp_path, experiment_name="hooks"))
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.count("CheckpointHook") == names.count("StepSeedHook") == 1
    assert any(type(hook) is CheckpointHook for hook in runner.hooks)
