"""Saving and resuming, with a run of one layer."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.runner import BaseLoop

from mmonepeace import checkpoint
from mmonepeace.checkpoint import CheckpointError
from mmonepeace.checks import CheckError
from mmonepeace.engine import CheckpointHook, PretrainRunner, resumable_runner
from tests.engine.toy_run import ToyModel, assert_same, config, train


def bare_runner(**attributes):
    runner = PretrainRunner.__new__(PretrainRunner)
    attributes = {
        "shards": None,
        "model": torch.nn.Linear(2, 2),
        "cfg": Config(),
        "strategy": SimpleNamespace(seed=0, experiment_name="x"),
        "message_hub": MessageHub.get_instance("runner"),
        "optim_wrapper": None,
        "param_schedulers": None,
        "_hooks": [],
        "_train_loop": Loop(),
    } | attributes
    for name, value in attributes.items():
        setattr(runner, name, value)
    return runner


class Loop(BaseLoop):
    epoch, iter = 0, 6
    dataloader = SimpleNamespace(dataset=None, batch_size=1)

    def __init__(self):
        pass

    def run(self):
        pass


def save(runner, folder, **options):
    runner.save_checkpoint(str(folder), "iter_7.pth", save_optimizer=False, **options)


def test_a_checkpoint_has_its_name_only_when_it_is_complete(tmp_path, monkeypatch):
    def write(content, file):
        file.write(b"half")
        assert not (tmp_path / "iter_7.pth").exists()
        raise KeyboardInterrupt

    runner = bare_runner()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", write)
        with pytest.raises(KeyboardInterrupt):
            save(runner, tmp_path)
    assert not list(tmp_path.glob("iter_*"))
    save(runner, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["iter_7.pth"]


def test_a_checkpoint_is_read_without_running_code(tmp_path):
    hub = MessageHub.get_instance("plain")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("best_score", np.float64(3.0))
    save(bare_runner(message_hub=hub), tmp_path, meta={"iter": 6, "classes": np.arange(3)})
    content = torch.load(tmp_path / "iter_7.pth", weights_only=True)
    assert content["meta"]["iter"] == 6  # and not that of this moment
    assert content["meta"]["classes"].tolist() == [0, 1, 2]
    assert content["message_hub"]["runtime_info"]["best_score"] == 3.0
    assert content["message_hub"]["log_scalars"]["train/loss"][0].tolist() == [0.5]


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="Correct the hook or the data set"):
        save(bare_runner(), tmp_path, meta={"faulty": object()})
    assert not list(tmp_path.iterdir())


def test_a_file_takes_the_place_of_a_folder_of_an_earlier_run(tmp_path):
    (tmp_path / "iter_7.pth").mkdir()
    (tmp_path / "iter_7.pth/0.pth").write_bytes(b"old")
    save(bare_runner(), tmp_path)
    assert (tmp_path / "iter_7.pth").is_file()


RECIPES = {
    "steps": {},
    "default sampler": dict(loader=dict(sampler=dict(type="DefaultSampler", shuffle=True))),
    "sorted batches": dict(loader=dict(batch_sampler=dict(type="mmdet.AspectRatioBatchSampler"))),
    "epochs": dict(
        loader=dict(sampler=dict(type="DefaultSampler", shuffle=True), drop_last=True),
        train_cfg=dict(by_epoch=True, max_epochs=3),
    ),
    "averaged": dict(custom_hooks=[dict(type="EMAHook", begin_iter=2)]),
    "averaged in bfloat16": dict(
        custom_hooks=[
            dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1),
        ],
        optim_wrapper=dict(
            type="mmonepeace.BFloat16OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9)
        ),
    ),
    "bfloat16": dict(
        optim_wrapper=dict(
            type="mmonepeace.BFloat16OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9)
        )
    ),
}


def options(name):
    given = dict(RECIPES[name])
    loader = config(".").train_dataloader | given.pop("loader", {})
    return dict(given, train_dataloader=loader)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_died_ends_with_the_same_bits(name, tmp_path):
    pytest.importorskip("mmdet" if "sorted" in name else "mmengine")
    train(tmp_path / "whole", **options(name))
    died = train(tmp_path / "died", die=5, **options(name))
    assert died.iter == 5
    resumed = train(tmp_path / "died", resume=True, **options(name))
    last = resumed.iter
    assert last == (9 if name == "epochs" else 8)
    expected = tmp_path / f"whole/iter_{last}.pth"
    if name == "epochs":
        assert died.epoch == 1
    assert_same(tmp_path / f"died/iter_{last}.pth", expected)


def test_averages_follow_their_rule(tmp_path):
    """The first step copies; buffers are those of the last step; the average is in float32."""
    cfg = options("averaged in bfloat16")
    every = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1))
    train(tmp_path, **cfg, default_hooks=every)
    expected = {}
    for step in range(1, 9):
        content = checkpoint.read_run(tmp_path / f"iter_{step}.pth")
        now = content["ema_state_dict"]  # stored in each other's place
        for name, average in content["state_dict"].items():
            value = now[f"module.{name}"]
            if step == 1 or "running" in name or "num_batches" in name:
                expected[name] = value
            else:
                expected[name] = 0.9 * expected[name] + 0.1 * value
            assert average.dtype == (torch.int64 if "num_batches" in name else torch.float32)
            torch.testing.assert_close(average, expected[name])
    assert not torch.equal(expected["layer.weight"], now["module.layer.weight"])


def test_training_does_not_go_on_from_averages_unnoticed(tmp_path):
    train(tmp_path, die=5, **options("averaged in bfloat16"))
    with pytest.raises(CheckpointError, match="training would go on from these"):
        train(tmp_path, resume=True, **options("bfloat16"))


def test_the_number_of_workers_changes_nothing(tmp_path):
    loader = config(".").train_dataloader
    workers = loader | dict(num_workers=2, persistent_workers=True)
    train(tmp_path / "none", train_dataloader=loader)
    train(tmp_path / "two", die=5, train_dataloader=workers)
    train(tmp_path / "two", resume=True, train_dataloader=workers)
    assert_same(tmp_path / "two/iter_8.pth", tmp_path / "none/iter_8.pth")


def test_a_run_that_left_in_the_middle_of_an_epoch_goes_on_there(tmp_path):
    given = options("epochs") | dict(
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=3),
    )
    train(tmp_path / "whole", **given)
    died = train(tmp_path / "died", die=5, **given)
    assert (tmp_path / "died/last_checkpoint").read_text().endswith("epoch_1.pth")
    (hook,) = [hook for hook in died.hooks if isinstance(hook, CheckpointHook)]
    died.train_loop._iter = 4  # as in the hooks after a step
    hook.save_now(died, 5)
    resumed = train(tmp_path / "died", resume=True, **given)
    assert resumed._load_from.endswith("iter_5.pth")
    assert_same(tmp_path / "died/epoch_3.pth", tmp_path / "whole/epoch_3.pth")
    assert not list((tmp_path / "died").glob("iter_*"))  # an epoch replaced it


def test_weights_that_a_run_started_from_are_not_read_again(tmp_path):
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "gone.pth"))
    model = dict(type="ToyModel", init_cfg=init)
    torch.save(ToyModel().state_dict(), tmp_path / "gone.pth")
    train(tmp_path / "run", die=5, model=model)
    (tmp_path / "gone.pth").unlink()
    assert train(tmp_path / "run", resume=True, model=model).iter == 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Work directory of a run of four steps."""
    work_dir = tmp_path_factory.mktemp("trained")
    train(work_dir, die=5)
    return work_dir


def change(path, tmp_path, **parts):
    """A copy with other contents."""
    other = tmp_path / path.name
    checkpoint.write_run(other, checkpoint.read_run(path) | parts)
    return str(other)


def resume(tmp_path, path, **given):
    return train(tmp_path / "other", resume=True, load_from=str(path), **given)


def test_a_resumed_run_is_told_how_many_threads_there_were(trained, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(resumable_runner, "choose_threads", told.append)
    resume(tmp_path, trained / "iter_4.pth")
    train(tmp_path / "new")
    assert told == [torch.get_num_threads(), None]


def test_a_run_is_resumed_from_a_file_of_another_folder(trained, tmp_path):
    train(tmp_path / "whole")
    resume(tmp_path, trained / "iter_4.pth")
    assert_same(tmp_path / "other/iter_8.pth", tmp_path / "whole/iter_8.pth")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (dict(state_dict={}), "missing"),
        (dict(meta={"iter": "x", "epoch": 0, "seed": 0}), "'x' as its iter, expected a number"),
        (dict(meta={"iter": 3, "epoch": 0}), "None as its seed, expected a number"),
        (dict(message_hub=dict(log_scalars={"loss": [1]})), "its logs cannot be read"),
        (dict(message_hub=[]), "its logs cannot be read"),
        (dict(state_dict={"layer.weight": 3}), "cannot be read: truncated or not"),
        (
            dict(optimizer=dict(state={}, param_groups=[])),
            "its optimiser is not that of the config",
        ),
    ],
)
def test_what_is_no_checkpoint_of_this_run_is_refused_in_one_line(trained, tmp_path, parts, says):
    path = change(trained / "iter_4.pth", tmp_path, **parts)
    with pytest.raises(CheckpointError, match=says) as error:
        resume(tmp_path, path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_alone_cannot_be_resumed(trained, tmp_path):
    content = checkpoint.read_run(trained / "iter_4.pth")
    path = tmp_path / "weights.pth"
    checkpoint.write_run(path, {key: content[key] for key in ("meta", "state_dict")})
    with pytest.raises(
        CheckpointError, match=r"weights\.pth has no message_hub, optim.*load_from="
    ):
        resume(tmp_path, path)


def test_a_run_of_another_model_is_refused(trained, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"another model than this ToyModel.*2 of another shape"
    ):
        resume(tmp_path, trained / "iter_4.pth", model=dict(type="ToyModel", width=5))


def test_a_run_that_would_end_before_its_step_is_refused(trained, tmp_path):
    with pytest.raises(
        CheckError, match=r"of step 4, but .* ends the run at step 3\. Train longer"
    ):
        resume(tmp_path, trained / "iter_4.pth", train_cfg=dict(by_epoch=False, max_iters=3))


def test_the_newest_is_damaged_and_the_one_before_is_taken(trained, tmp_path, capsys):
    work_dir = shutil.copytree(trained, tmp_path / "moved")
    newest = work_dir / "iter_4.pth"
    newest.write_bytes(newest.read_bytes()[:-9])
    train(tmp_path / "whole")
    assert train(work_dir, resume=True)._load_from == str(work_dir / "iter_2.pth")
    assert_same(work_dir / "iter_8.pth", tmp_path / "whole/iter_8.pth")


def test_loading_is_strict(trained, tmp_path):
    path = str(trained / "iter_4.pth")
    loaded = train(tmp_path / "loaded", die=0, load_from=path)
    assert torch.equal(
        loaded.model.layer.weight, torch.load(path, weights_only=True)["state_dict"]["layer.weight"]
    )
    with pytest.raises(CheckpointError, match=r"(?s)iter_4\.pth: the weights do not fit"):
        train(tmp_path / "other", load_from=path, model=dict(type="ToyModel", width=5))


def test_a_config_without_a_seed_keeps_that_of_the_checkpoint(trained, tmp_path):
    train(tmp_path / "whole")
    resume(tmp_path, trained / "iter_4.pth", randomness=dict(seed=None))
    assert_same(tmp_path / "other/iter_8.pth", tmp_path / "whole/iter_8.pth")
