"""A run that takes a second: one layer, and samples that are drawn at random."""

import itertools
import random

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch.utils.data import Dataset

from mmonepeace.engine import FinetuneRunner


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """With batch norm, whose buffers matter, and dropout, whose draws do."""

    def __init__(self, width=4, init_cfg=None, **kwargs):
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.norm, self.layer = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, width)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = self.layer(self.norm(torch.stack(inputs)))
        if mode != "loss":
            return [x.mean()]
        x = torch.nn.functional.dropout(x, 0.5)
        return {"loss": (x - random.random()).square().mean()}


@DATASETS.register_module(force=True)
class ToyData(Dataset):
    """Augmented with all three generators."""

    metainfo = dict(classes=("a", "b"), made_by=object())  # noqa: RUF012

    def __init__(self, size=10):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        noise = random.random(), np.random.rand(), torch.rand(()).item()
        return {"inputs": index / 10 + torch.tensor(noise), "data_samples": index}

    def get_data_info(self, index):
        return {"width": 1 + index % 3, "height": 2}


@METRICS.register_module(force=True)
class ToyScore(BaseMetric):
    """The step counts: each evaluation is better than the one before."""

    score = 0.0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        ToyScore.score += 1
        return {"score": ToyScore.score, "other": 1.0}


_NUMBERS = itertools.count()


class Killed(Exception):
    """In place of a signal."""


@HOOKS.register_module(force=True)
class DieHook(Hook):
    """End a run before a step."""

    priority = "VERY_HIGH"

    def __init__(self, step):
        self.step = step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.step:
            raise Killed


def config(work_dir, **options):
    """Config of eight steps with a checkpoint every second one; `options` replace its keys."""
    return Config(
        dict(
            work_dir=str(work_dir),
            model=dict(type="ToyModel"),
            train_dataloader=dict(
                batch_size=3,
                num_workers=0,
                sampler=dict(type="InfiniteSampler", shuffle=True),
                dataset=dict(type="ToyData"),
            ),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=8, val_interval=99),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1), clip_grad=dict(max_norm=1.0)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
                dict(type="CosineAnnealingLR", by_epoch=False, begin=3, end=8),
            ],
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2),
                logger=dict(type="LoggerHook", interval=1),
            ),
            randomness=dict(seed=3),
            log_level="WARNING",
        )
        | options
    )


def train(work_dir, die=None, **options):
    """Run to its end, or until `die`; gives the runner."""
    cfg = config(work_dir, **options)
    cfg.experiment_name = f"toy_{next(_NUMBERS)}"
    hooks = cfg.setdefault("custom_hooks", [])
    if die is not None:
        cfg.custom_hooks = [*hooks, dict(type="DieHook", step=die)]
    runner = FinetuneRunner.from_cfg(cfg)
    try:
        runner.train()
    except Killed:
        assert die is not None
    return runner


def weights(path):
    """Weights and moments of a checkpoint, by name."""
    content = torch.load(path, weights_only=True)
    moments = {
        f"{index}.{name}": value
        for index, state in content["optimizer"]["state"].items()
        for name, value in state.items()
    }
    return content["state_dict"] | moments


def assert_same(got, expected):
    """The same bits."""
    got, expected = weights(got), weights(expected)
    assert list(got) == list(expected) != []
    assert not [name for name in expected if not torch.equal(got[name], expected[name])]
