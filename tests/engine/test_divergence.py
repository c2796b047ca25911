"""Runs whose numbers are no longer finite, with a model of one layer."""

import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from mmonepeace.engine import DivergedError, DivergenceHook
from mmonepeace.engine.divergence import refuse_non_finite

MAX_STEPS = 8


class Model(BaseModel):
    def __init__(self, weight=1.0):
        super().__init__()
        self.first, self.second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        self.weight = weight

    def forward(self, inputs, data_samples=None, mode="tensor"):
        loss = self.second(self.first(torch.stack(inputs))).square().mean()
        return {"loss_square": self.weight * loss, "accuracy": torch.tensor(math.nan)}


def sample(i, value):
    return {
        "inputs": torch.full((2,), value),
        "data_samples": BaseDataElement(metainfo={"img_path": f"{i}.png"}),
    }


@pytest.fixture
def train(tmp_path, request):
    """Run until the end or the error: (options) -> the number of steps that were taken."""

    def run(weight=1.0, lr=0.01, bad=None, value=math.nan, clip_grad=None, **options):
        values = [value if i == bad else 0.1 * i for i in range(MAX_STEPS)]
        samples = [sample(i, x) for i, x in enumerate(values)]
        runner = Runner(
            model=Model(weight),
            work_dir=str(tmp_path),
            train_dataloader=DataLoader(samples, 1, collate_fn=collate),
            train_cfg=dict(by_epoch=False, max_iters=MAX_STEPS),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=lr), clip_grad=clip_grad),
            custom_hooks=[dict(type="mmonepeace.DivergenceHook", **options)],
            default_hooks=dict(checkpoint=None),
            log_level="ERROR",
            experiment_name=request.node.name,
            randomness=dict(seed=0),
        )
        steps = []
        after = runner.call_hook
        runner.call_hook = lambda name, **kw: (steps.append(name), after(name, **kw))
        try:
            runner.train()
        finally:
            run.steps = steps.count("after_train_iter")
        return runner

    return run


def collate(samples):
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def test_a_finite_run_goes_on_whatever_its_accuracy_is(train):
    train()
    assert train.steps == MAX_STEPS


@pytest.mark.parametrize("clip_grad", [None, dict(max_norm=1.0)])
def test_a_nan_in_the_data_ends_the_run_and_names_the_file(train, clip_grad):
    with pytest.raises(DivergedError) as error:
        train(bad=3, clip_grad=clip_grad)
    assert train.steps == 6
    lines = str(error.value).split("\n  ")
    assert "not finite at steps 4 to 6 (3 in a row" in lines[0]
    assert lines[1].startswith("step 4: loss nan, loss_square nan")
    assert lines[2] == "its files: 3.png"
    norms = lines[3].removeprefix("largest gradient norms of the last finite step: ").split(", ")
    assert {norm.split()[0] for norm in norms} == set(dict(Model().named_parameters()))
    values = [float(norm.split()[1]) for norm in norms]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
    assert lines[4].startswith("gradients that are not finite at step 4: 4 of 4 parameters")
    assert lines[5] == "no checkpoint had been written yet"
    assert ("clip gradients" in lines[6]) == (clip_grad is None)
    assert "(now 0.01)" in lines[6]


@pytest.mark.parametrize("options", [dict(lr=1e6), dict(weight=math.inf), dict(bad=2, value=1e30)])
def test_whatever_the_cause_it_ends(train, options):
    with pytest.raises(DivergedError, match="not finite at steps"):
        train(**options)
    assert train.steps < MAX_STEPS


def test_the_number_of_steps_is_an_option(train):
    with pytest.raises(DivergedError, match="at step 4 "):
        train(bad=3, patience=1)
    with pytest.raises(ValueError, match="patience of DivergenceHook is 0"):
        DivergenceHook(0)


def test_steps_that_are_not_in_a_row_do_not_end_a_run():
    hook, log = DivergenceHook(2), {}
    hub = SimpleNamespace(log_scalars=log, get_scalar=lambda name: log[name])
    runner = SimpleNamespace(message_hub=hub, iter=0, optim_wrapper=None)
    for loss in (math.nan, 1.0, math.inf, 2.0):
        log["train/loss"] = SimpleNamespace(current=lambda loss=loss: loss)
        hook.after_train_iter(runner, 0, {}, {"loss": loss})


@pytest.mark.parametrize(
    ("loss", "scale", "is_bad"), [(1.0, 2.0, False), (1.0, 0.5, True), (math.nan, 2.0, True)]
)
def test_what_the_loss_scaler_handles_does_not_count(loss, scale, is_bad):
    wrapper = mock.Mock(spec=AmpOptimWrapper)
    wrapper.loss_scaler = mock.Mock(get_scale=lambda: scale)
    log = {"train/loss": loss, "train/grad_norm": math.inf}
    hub = SimpleNamespace(
        log_scalars=log, get_scalar=lambda name: SimpleNamespace(current=lambda: log[name])
    )
    hook = DivergenceHook(5)
    runner = SimpleNamespace(message_hub=hub, iter=0, optim_wrapper=wrapper)
    hook.after_train_iter(runner, 0, {}, {"loss": loss})
    assert bool(hook._row) == is_bad


def test_weights_or_optimiser_states_that_are_not_finite_are_not_saved(tmp_path):
    model = Model()
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()))
    wrapper.update_params(model([torch.ones(2)])["loss_square"])
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, work_dir=tmp_path, hooks=[])
    refuse_non_finite(runner, 7)
    moments = wrapper.optimizer.state[model.second.bias]
    for tensor, name in (
        (moments["exp_avg_sq"], "such as exp_avg_sq of second.bias."),
        (model.first.weight.data, "such as first.weight."),
    ):
        tensor.view(-1)[0] = math.inf
        with pytest.raises(DivergedError, match="after step 7, 1 tensors") as error:
            refuse_non_finite(runner, 7)
        assert name in str(error.value)
        tensor.view(-1)[0] = 0
