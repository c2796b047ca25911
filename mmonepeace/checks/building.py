"""Parts of a run that are quick to build, without memory for weights and before data are read."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, init_default_scope
from torch import nn

from mmonepeace.checks.config import dataset_configs
from mmonepeace.checks.explanations import explain

_OF_AMP = ("dtype", "loss_scale", "use_fsdp")
_EPOCH = 1000  # steps, to convert schedules in epochs; any number does


def check_parts(cfg: Config) -> None:
    """Build the model without memory, its optimiser and schedules, and the transforms of the data.

    Raises:
        CheckError: naming the key of the part that cannot be built.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    with explain(cfg, log=False), quietly():
        model = build_on_meta(cfg.model)
        if model is not None:
            _build_optimiser(cfg, model)
        for _, dataset in dataset_configs(cfg):
            for step in dataset.get("pipeline") or ():
                # The check of the tokenizers says what they are made from.
                if Path(step.get("tokenizer", __file__)).is_file():
                    TRANSFORMS.build(deepcopy(step))


def build_on_meta(config: Any) -> nn.Module | None:
    """A model without memory; None if it computes with weights while it is built."""
    try:
        with torch.device("meta"):
            return MODELS.build(deepcopy(config))
    except (NotImplementedError, RuntimeError) as error:
        if "meta" in str(error):
            return None
        raise


def _build_optimiser(cfg: Config, model: nn.Module) -> None:
    wrapper = deepcopy(cfg.optim_wrapper)
    if not isinstance(wrapper.get("optimizer"), dict):  # several optimisers
        return
    wrapper.optimizer.pop("fused", None)  # kernels are for real devices
    if not torch.cuda.is_available():  # where this one cannot be built; the run will say so
        wrapper = {k: v for k, v in wrapper.items() if k not in ("type", *_OF_AMP)}
    optimiser = build_optim_wrapper(model, wrapper)
    given = cfg.get("param_scheduler") or []
    for each in given if isinstance(given, (list, tuple)) else [given]:
        scheduler = deepcopy(each)
        if not isinstance(scheduler, dict) or "type" not in scheduler:
            continue
        arguments = dict(optimizer=optimiser)
        if scheduler.pop("convert_to_iter_based", False):
            cls = PARAM_SCHEDULERS.get(scheduler.pop("type"))
            cls.build_iter_from_epoch(**scheduler, **arguments, epoch_length=_EPOCH)
        else:
            PARAM_SCHEDULERS.build(scheduler, default_args=arguments)


@contextmanager
def quietly() -> Iterator[None]:
    """Without the notes of constructors, which the run itself will print."""
    before = logging.root.manager.disable
    _disable(logging.WARNING)
    try:
        yield
    finally:
        _disable(before)


def _disable(level: int) -> None:
    logging.disable(level)
    for logger in MMLogger._instance_dict.values():  # which logging does not know
        logger._cache.clear()
