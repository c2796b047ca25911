"""A run that is resumed with another config: the config of today decides, and says what is new."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.optim import ReduceOnPlateauParamScheduler
from torch.utils.data import IterableDataset

from mmonepeace.checks import CheckError
from mmonepeace.console import table

# What a run depends on, of a config.
_KEYS = (
    "model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr",
    "randomness",
)  # fmt: skip
_SHOWN = 30  # rows of the table
_ABSENT = "-"
# What a schedule changes of itself while it steps.
_DYNAMIC = {
    "last_step", "_global_step", "_last_value", "verbose", "best", "cooldown_counter",
    "num_bad_epochs",
}  # fmt: skip


Row = tuple[str, str, str]  # a setting, its value before and its value now


def describe(cfg: Config, processes: int, samples: int) -> str:
    """What a run depends on, as JSON: its config, and the numbers of processes and of samples a step."""
    settings = {key: cfg[key] for key in _KEYS if key in cfg}
    settings = Config(settings).to_dict() | {"processes": processes, "samples of a step": samples}
    return json.dumps(settings, default=str)


def differences(before: str, now: str) -> list[Row]:
    """What differs between two descriptions.

    Files to initialise weights from do not matter any more.

    Raises:
        ValueError: if one is not a description.
    """
    old, new = (dict(_flatten(json.loads(text))) for text in (before, now))
    names = [*new, *(name for name in old if name not in new)]
    return [
        (name, old.get(name, _ABSENT), new.get(name, _ABSENT))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield name, json.dumps(value)
        return
    for key, item in value.items():
        if key != "init_cfg":
            yield from _flatten(item, f"{name}.{key}" if name else str(key))


def as_table(rows: Sequence[Row]) -> str:
    """A table of differences, the longest values cut."""
    shown = [tuple(cell if len(cell) <= 60 else f"{cell[:57]}..." for cell in row) for row in rows]
    text = table(("setting", "checkpoint", "now"), shown[:_SHOWN])
    return text if len(rows) <= _SHOWN else f"{text}\nand {len(rows) - _SHOWN} more"


def explain(rows: Sequence[Row], loader: Any) -> str:
    """What another number of processes or samples means for the data, as a line after the table."""
    if not {name for name, *_ in rows} & {"processes", "samples of a step"}:
        return ""
    what = "each sample of an epoch still comes once"
    if isinstance(loader.dataset, IterableDataset):
        what = "of a stream, some samples of this epoch come twice or not at all"
    elif hasattr(loader.batch_sampler, "start_at"):
        what = "batches are made anew, so up to a batch of samples may come twice or not at all"
    return (
        "\nThe data go on after the samples that were drawn, in the same order; "
        f"{what}. Steps and schedules count on; what is random within a step differs."
    )


def follow_config(
    optim_wrapper: Any,
    schedulers: Sequence[Any],
    content: Mapping[str, Any],
    step: int,
    epoch_ends: Sequence[int],
) -> tuple[float, float] | None:
    """Load what the optimiser has learnt; rates and schedules are those of the config at this step.

    Args:
        optim_wrapper: as built from the config, like a run that begins.
        schedulers: likewise.
        content: of a checkpoint: the states of both.
        step: number of steps trained.
        epoch_ends: steps after which the epochs trained have ended.

    Returns:
        None if nothing has changed; else the largest learning rate of the checkpoint and that of
        the config, at this step.

    Raises:
        ValueError: if the groups of parameters are others.
        CheckError: if the config changes a schedule that follows the evaluations.
    """
    states: list[Mapping[str, Any]] = list(content.get("param_schedulers") or ())
    fresh = _hyperparameters(optim_wrapper)
    optim_wrapper.load_state_dict(content["optimizer"])
    stored = _hyperparameters(optim_wrapper)
    scheduled = {scheduler.param_name for scheduler in schedulers}
    same = _without(fresh, scheduled) == _without(stored, scheduled) and (
        [_without([scheduler.state_dict()], _DYNAMIC) for scheduler in schedulers]
        == [_without([state], _DYNAMIC) for state in states]
    )
    if same:
        for scheduler, state in zip(schedulers, states, strict=True):
            scheduler.load_state_dict(state)
        return None
    if any(isinstance(scheduler, ReduceOnPlateauParamScheduler) for scheduler in schedulers):
        raise CheckError(
            "the learning rate, its schedule or another hyperparameter of the optimiser has "
            "changed, but ReduceOnPlateauLR depends on all evaluations so far, which a checkpoint "
            "does not have. Resume with the config of the checkpoint, or use another schedule."
        )
    for group, values in zip(_groups(optim_wrapper), fresh, strict=True):
        for name in set(group) - set(values) - {"params"}:
            del group[name]
        group.update(values)
    _replay(schedulers, step, epoch_ends)
    return _largest_rate(stored), _largest_rate(_hyperparameters(optim_wrapper))


def _replay(schedulers: Sequence[Any], step: int, epoch_ends: Sequence[int]) -> None:
    """Step schedules as a run does: the same numbers, and the same rounding."""
    for scheduler in schedulers:
        scheduler.optimizer._global_step = 0  # it has stepped: no warning of a wrong order
    for number in range(1, step + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if number in epoch_ends:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()


def _groups(optim_wrapper: Any) -> list[dict[str, Any]]:
    return list(optim_wrapper.param_groups)


def _hyperparameters(optim_wrapper: Any) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in _groups(optim_wrapper)
    ]


def _without(values: Sequence[Mapping[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    return [{k: v for k, v in value.items() if k not in names} for value in values]


def _largest_rate(groups: Sequence[Mapping[str, Any]]) -> float:
    return max((float(group["lr"]) for group in groups), default=0.0)
