"""Resuming with another config, with a run of one layer."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checks import CheckError
from mmonepeace.datasets import EndlessSampler
from mmonepeace.engine.changed_config import as_table, describe, differences
from tests.engine.toy_run import assert_same, config, train


@HOOKS.register_module(force=True)
class DrawsHook(Hook):
    """Keep the indices of each batch."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.__dict__.setdefault("draws", []).append(data_batch["data_samples"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Work directory of a run of four steps."""
    work_dir = tmp_path_factory.mktemp("trained")
    train(work_dir, die=5)
    return work_dir


@pytest.fixture
def resume(tmp_path, trained, monkeypatch):
    """Resume the run with another config: the runner, and its warnings."""
    said = []
    warning = MMLogger.warning
    monkeypatch.setattr(
        MMLogger,
        "warning",
        lambda self, text, *a: (said.append(str(text)), warning(self, text, *a)),
    )

    def run(path=trained / "iter_4.pth", **options):
        runner = train(tmp_path / "resumed", resume=True, load_from=str(path), **options)
        return runner, "\n".join(said)

    return run


def rates(runner):
    return runner.message_hub.get_scalar("train/lr").data[0].tolist()


def optimiser(**options):
    return dict(optimizer=dict(type="AdamW", lr=0.1) | options, clip_grad=dict(max_norm=1.0))


def schedule(end):
    return [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=3, end=end),
    ]


SCALED = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.3, weight_decay=0.2, betas=(0.8, 0.9)),
    paramwise_cfg=dict(custom_keys={"norm": dict(lr_mult=0.1)}),
)


@pytest.mark.parametrize(
    "options",
    [
        dict(param_scheduler=schedule(12), train_cfg=dict(by_epoch=False, max_iters=12)),
        dict(optim_wrapper=optimiser(lr=0.02)),
        dict(param_scheduler=None),
        dict(param_scheduler=[dict(type="MultiStepLR", milestones=[2, 6], by_epoch=False)]),
        dict(param_scheduler=[*schedule(8), dict(type="StepLR", step_size=3, by_epoch=False)]),
    ],
    ids=["longer", "lower", "without a schedule", "another schedule", "one more"],
)  # fmt: skip
def test_rates_are_those_that_a_new_run_has_at_that_step(resume, tmp_path, options):
    fresh = train(tmp_path / "fresh", **options)
    resumed, said = resume(**options)
    assert rates(resumed)[4:] == rates(fresh)[4:]
    assert len(rates(resumed)) == resumed.max_iters
    assert "The config is not that of" in said
    assert "largest learning rate at step 4" in said


def test_the_table_has_old_and_new(resume):
    options = dict(param_scheduler=schedule(12), train_cfg=dict(by_epoch=False, max_iters=12))
    _, said = resume(**options, optim_wrapper=optimiser(lr=0.02))
    rows = {tuple(line.split()) for line in said.splitlines()}
    assert ("train_cfg.max_iters", "8", "12") in rows
    assert ("optim_wrapper.optimizer.lr", "0.1", "0.02") in rows
    assert ("param_scheduler.1.end", "8", "12") in rows
    # The second half of a cosine from step 3 to 8 before, the first of one to 12 now.
    (rate,) = [row for row in rows if row[:4] == ("largest", "learning", "rate", "at")]
    assert rate[4:] == ("step", "4", "0.09045", "0.0194")


def hyperparameters(runner):
    groups = runner.optim_wrapper.param_groups
    return [{k: v for k, v in group.items() if k != "params"} for group in groups]


def test_groups_follow_the_config_and_keep_what_they_learnt(tmp_path):
    before = SCALED | dict(optimizer=dict(type="AdamW", lr=0.1))
    train(tmp_path / "run", die=5, optim_wrapper=before)
    fresh = train(tmp_path / "fresh", die=4, optim_wrapper=SCALED)
    after = train(tmp_path / "run", die=4, resume=True, optim_wrapper=SCALED)
    assert hyperparameters(after) == hyperparameters(fresh)
    assert {group["weight_decay"] for group in hyperparameters(after)} == {0.2}
    assert len({group["lr"] for group in hyperparameters(after)}) == 2
    learnt = torch.load(tmp_path / "run/iter_4.pth", weights_only=True)["optimizer"]["state"]
    got = after.optim_wrapper.optimizer.state_dict()["state"]
    assert len(got) == len(learnt) == 4
    for index, values in learnt.items():
        assert all(torch.equal(got[index][name], value) for name, value in values.items())


def test_what_is_not_changed_is_not_mentioned(resume, tmp_path):
    logger = dict(type="LoggerHook", interval=3)
    checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=4)
    _, said = resume(default_hooks=dict(logger=logger, checkpoint=checkpoint))
    assert "The config" not in said
    train(tmp_path / "whole")
    assert_same(tmp_path / "resumed/iter_8.pth", tmp_path / "whole/iter_8.pth")


@pytest.mark.parametrize("batch_size", [2, 5])
def test_with_another_batch_size_each_sample_of_an_epoch_still_comes_once(resume, batch_size):
    loader = config(".").train_dataloader | dict(batch_size=batch_size)
    runner, said = resume(train_dataloader=loader, custom_hooks=[dict(type="DrawsHook")])
    drawn = [index for batch in runner.draws for index in batch]
    stream = iter(EndlessSampler(range(10), seed=3))
    expected = [next(stream).index for _ in range(12 + len(drawn))][12:]
    assert drawn == expected
    assert len(runner.draws) == 4
    assert "samples of a step" in said
    assert "go on after the samples that were drawn, in the same order; each sample of an" in said


def test_an_epoch_goes_on_with_another_batch_size_and_counts_its_steps_anew(tmp_path):
    def options(batch_size):
        sampler = dict(type="DefaultSampler", shuffle=True)
        return dict(
            train_dataloader=config(".").train_dataloader
            | dict(sampler=sampler, batch_size=batch_size),
            train_cfg=dict(by_epoch=True, max_epochs=3),
            param_scheduler=dict(type="ExponentialLR", gamma=0.5),
            custom_hooks=[dict(type="DrawsHook")],
        )

    died = train(tmp_path, die=4, **options(5))  # two steps of an epoch
    resumed = train(tmp_path, resume=True, **options(2))
    assert resumed.iter == 15
    assert len(resumed.draws) == 5
    assert sorted(i for batch in resumed.draws for i in batch) == list(range(10))
    assert len(died.draws) == 4
    assert rates(resumed)[-1] == pytest.approx(0.1 * 0.5**2)


def test_a_schedule_of_epochs_is_replayed_too(tmp_path):
    def options(gamma):
        return dict(
            train_dataloader=config(".").train_dataloader
            | dict(sampler=dict(type="DefaultSampler", shuffle=True), drop_last=True),
            train_cfg=dict(by_epoch=True, max_epochs=4),
            param_scheduler=[
                dict(type="ExponentialLR", gamma=gamma),
                dict(type="LinearLR", start_factor=0.5, by_epoch=False, begin=0, end=6),
            ],
        )

    train(tmp_path / "run", die=9, **options(0.5))
    resumed = train(tmp_path / "run", resume=True, **options(0.9))
    fresh = train(tmp_path / "fresh", **options(0.9))
    assert rates(resumed)[8:] == rates(fresh)[8:]


def test_another_seed_is_followed_and_said(resume, tmp_path):
    _, said = resume(randomness=dict(seed=4))
    assert ("randomness.seed", "3", "4") in {tuple(line.split()) for line in said.splitlines()}


def test_another_optimiser_is_refused(resume):
    with pytest.raises(
        CheckpointError, match=r'has the state of "AdamW", but the config wants "SGD"'
    ):
        resume(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)))
    with pytest.raises(CheckpointError, match=r"its optimiser is not that of the config"):
        resume(optim_wrapper=SCALED)


def test_a_rate_that_follows_evaluations_cannot_be_changed(tmp_path):
    def options(lr):
        loader = dict(
            batch_size=5,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dict(type="ToyData"),
        )
        plateau = dict(type="ReduceOnPlateauLR", monitor="score", rule="less", by_epoch=True)
        return dict(
            optim_wrapper=optimiser(lr=lr), param_scheduler=[plateau],
            val_cfg=dict(type="ValLoop"), val_dataloader=loader, val_evaluator=dict(type="ToyScore"),
        )  # fmt: skip

    train(tmp_path, die=5, **options(0.1))
    with pytest.raises(CheckError, match="ReduceOnPlateauLR depends on all evaluations so far"):
        train(tmp_path, resume=True, **options(0.2))
    assert train(tmp_path, resume=True, **options(0.1)).iter == 8


def test_settings_that_cannot_be_read_are_one_line(trained, resume, tmp_path):
    content = checkpoint.read_run(trained / "iter_4.pth")
    content["meta"]["settings"] = "[" * 100_000
    checkpoint.write_run(tmp_path / "odd.pth", content)
    with pytest.raises(CheckpointError, match=r"odd\.pth: its settings cannot be read"):
        resume(tmp_path / "odd.pth")
    del content["meta"]["settings"]
    checkpoint.write_run(tmp_path / "odd.pth", content)
    assert resume(tmp_path / "odd.pth")[0].iter == 8


def test_differences_are_by_key_and_short():
    before = Config(
        dict(model=dict(init_cfg=dict(a=1), layers=[dict(n=1), dict(n=2)], size=(1, 2)))
    )
    after = Config(dict(model=dict(init_cfg=None, layers=[dict(n=1), dict(n=3)], name="x" * 99)))
    rows = differences(describe(before, 1, 8), describe(after, 2, 8))
    assert rows == [
        ("model.layers.1.n", "2", "3"),
        ("model.name", "-", f'"{"x" * 99}"'),
        ("processes", "1", "2"),
        ("model.size", "[1, 2]", "-"),
    ]
    lines = as_table(rows * 10).splitlines()
    assert len(lines) == 32
    assert lines[-1] == "and 10 more"
    assert max(map(len, lines)) < 120
    assert json.loads(describe(before, 1, 8))["samples of a step"] == 8
