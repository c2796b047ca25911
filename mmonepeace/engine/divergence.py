"""Divergence: a run whose numbers are no longer finite stops, and never saves such weights."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmonepeace.checkpoint import checkpoints_of_run
from mmonepeace.checks import CheckError
from mmonepeace.registry import HOOKS

SHOWN = 5  # files and parameters of a message


class DivergedError(CheckError):
    """A run whose loss, gradients or weights are not finite any more."""

    on_all_ranks = True


@dataclass(frozen=True)
class _Step:
    """A step: its number from 1, logged values, batch, and gradient norms on the device."""

    number: int
    values: dict[str, float]
    samples: Any
    norms: Tensor | None


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop after some steps in a row whose loss or gradient norm is not finite.

    In mixed precision with a loss scaler, steps whose gradient alone overflows do not count: the
    scaler skips them and lowers its scale, unless that is below 1 already.

    The values are those that MMEngine logs, so that looking at them waits for no GPU. Without
    gradient clipping it logs no gradient norm, and the loss of the next step shows it.

    Args:
        patience: number of such steps in a row that ends the run.

    Raises:
        ValueError: if `patience` is not positive.
    """

    priority = "LOW"  # after LoggerHook, before CheckpointHook

    def __init__(self, patience: int = 3) -> None:
        if patience < 1:
            raise ValueError(f"patience of DivergenceHook is {patience}, expected 1 or more steps.")
        self.patience = patience
        self._row: list[_Step] = []  # those that are not finite
        self._last: _Step | None = None
        self._names: list[str] = []
        self._norms: Tensor | None = None  # of the gradients of this step, on the device
        self._finite_norms: Tensor | None = None  # of the last finite step

    def before_train(self, runner: Runner) -> None:
        """Have the gradient norm of each parameter noted before each optimiser step."""
        wrapper = runner.optim_wrapper
        parameters = {
            name: parameter
            for name, parameter in _bare(runner.model).named_parameters()
            if parameter.requires_grad
        }
        step = wrapper.step

        @wraps(step)  # with its counter, which schedulers look for
        def noting_step(**kwargs: Any) -> None:
            # Before clipping, which spreads a NaN to all gradients.
            self._names = [name for name, p in parameters.items() if p.grad is not None]
            self._norms = _gradient_norms([parameters[name] for name in self._names], wrapper)
            step(**kwargs)

        wrapper.step = noting_step

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Any] | None = None,
    ) -> None:
        """Count a step that is not finite.

        Raises:
            DivergedError: if there were too many in a row.
        """
        values = {
            name: runner.message_hub.get_scalar(f"train/{name}").current()
            for name in (*(outputs or ()), "grad_norm")
            if f"train/{name}" in runner.message_hub.log_scalars
        }
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
        self._last = _Step(runner.iter + 1, values, samples, self._norms)
        bad = _is_bad(values, runner.optim_wrapper)
        if get_world_size() > 1:  # all processes stop together
            votes = torch.tensor(float(bad))
            all_reduce(votes, "max")
            bad = bool(votes)
        if not bad:
            self._row.clear()
            self._finite_norms = self._norms
            return
        self._row.append(self._last)
        if len(self._row) == self.patience:
            raise DivergedError(self._message(runner))

    def _message(self, runner: Runner) -> str:
        first, last = self._row[0], self._row[-1]
        steps = f"step {first.number}"
        if len(self._row) > 1:
            steps = f"steps {first.number} to {last.number}"
        bad = [k for k in ("loss", "grad_norm") if not math.isfinite(first.values.get(k, 0.0))]
        what = " and ".join(bad) or "loss of another process"
        limit = f"{self.patience} in a row end a run: default_hooks.divergence.patience"
        return _join(f"{what} not finite at {steps} ({limit}).", self.details(), runner)

    def details(self) -> list[str]:
        """Lines about the first step that is not finite, else the last one; on all processes."""
        step = self._row[0] if self._row else self._last
        if step is None:
            return []
        # Accuracies of a batch with no label may be NaN without harm, and say nothing here.
        values = {k: v for k, v in step.values.items() if "loss" in k or k == "grad_norm"}
        files = [name for names in all_gather_object(batch_files(step.samples)) for name in names]
        return [
            f"step {step.number}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()),
            f"its files: {_some(files) or 'not named by the data set'}",
            *self._norm_lines(step),
        ]

    def _norm_lines(self, step: _Step) -> Iterable[str]:
        """The largest gradient norms of the last finite step, and which were not finite then."""
        if self._finite_norms is not None and len(self._finite_norms) == len(self._names):
            norms = self._finite_norms.cpu()
            top = norms.argsort(descending=True)[:SHOWN].tolist()
            shown = ", ".join(f"{self._names[i]} {norms[i]:.3g}" for i in top)
            yield f"largest gradient norms of the last finite step: {shown}"
        if step.norms is not None and len(step.norms) == len(self._names):
            bad = (~step.norms.isfinite()).nonzero().flatten().tolist()
            if bad:
                yield (
                    f"gradients that are not finite at step {step.number}: {len(bad)} of "
                    f"{len(self._names)} parameters, such as {_some(self._names[i] for i in bad)}"
                )


def refuse_non_finite(runner: Runner, step: int) -> None:
    """Check weights and optimiser state of a step before they are saved, on all processes.

    Raises:
        DivergedError: naming the tensors that are not finite.
    """
    model, wrapper = _bare(runner.model), runner.optim_wrapper
    tensors = dict(model.state_dict())
    if isinstance(wrapper, OptimWrapper):
        for name, parameter in model.named_parameters():
            state = wrapper.optimizer.state.get(parameter, {})
            tensors |= {f"{key} of {name}": value for key, value in state.items()}
    bad = _non_finite(tensors)
    number = torch.tensor(float(len(bad)))
    if get_world_size() > 1:
        all_reduce(number, "max")  # each may hold other rows
    if number:
        names = _some(bad) or "rows of another process"
        found = [hook for hook in runner.hooks if isinstance(hook, DivergenceHook)]
        what = (
            f"after step {step}, {int(number)} tensors of weights and optimiser are not finite, such "
            f"as {names}. This checkpoint is not written, and the run ends."
        )
        raise DivergedError(_join(what, found[0].details() if found else [], runner))


def batch_files(samples: Any) -> list[str]:
    """Names of the files, or keys of shards, of the samples of a batch."""
    names = []
    for sample in samples or ():
        info = getattr(sample, "metainfo", None) or {}
        found = (str(info[key]) for key in ("img_path", "audio_path", "key") if info.get(key))
        names.append(" + ".join(found))
    return [name for name in names if name]


def _join(what: str, details: Iterable[str], runner: Runner) -> str:
    parts = (
        f"the run has diverged: {what}",
        *details,
        _checkpoint_line(runner),
        _advice(runner.optim_wrapper),
    )
    return "\n  ".join(parts)


def _is_bad(values: dict[str, float], wrapper: OptimWrapper) -> bool:
    if not math.isfinite(values.get("loss", 0.0)):
        return True
    if math.isfinite(values.get("grad_norm", 0.0)):
        return False
    return not isinstance(wrapper, AmpOptimWrapper) or wrapper.loss_scaler.get_scale() < 1


@torch.no_grad()
def _gradient_norms(parameters: Sequence[Tensor], wrapper: OptimWrapper) -> Tensor | None:
    """(number of parameters,) on the device: no wait. Of sharded ones, the rows of this process."""
    gradients = [_local(parameter.grad) for parameter in parameters]
    if not gradients:
        return None
    device = gradients[0].device
    norms = torch.stack([norm.to(device) for norm in torch._foreach_norm(gradients)])
    scale = wrapper.loss_scaler._scale if isinstance(wrapper, AmpOptimWrapper) else None
    return norms if scale is None else norms / scale.to(device)


@torch.no_grad()
def _non_finite(tensors: dict[str, Any]) -> list[str]:
    """Names of the tensors with a value that is not finite; one wait for each kind of tensor."""
    groups = defaultdict[Any, dict[str, Tensor]](dict)
    for name, value in tensors.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            value = _local(value)
            if value.numel():
                groups[value.device, value.dtype][name] = value
    bad = []
    for group in groups.values():
        # The largest value cannot overflow, as a sum of squares would.
        largest = torch.stack(torch._foreach_norm(list(group.values()), math.inf))
        finite = largest.isfinite().tolist()
        bad += [name for name, is_finite in zip(group, finite, strict=True) if not is_finite]
    return bad


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bare(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model


def _some(names: Iterable[str]) -> str:
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(islice(names, SHOWN)) + rest


def _checkpoint_line(runner: Runner) -> str:
    if last := next(iter(checkpoints_of_run(runner.work_dir)), None):
        return f"the last checkpoint, with finite weights: {last}"
    return "no checkpoint had been written yet"


def _advice(wrapper: Any) -> str:
    rates = wrapper.get_lr() if isinstance(wrapper, OptimWrapper) else {}
    rate = max((max(values) for values in rates.values()), default=0.0)
    clipped = getattr(wrapper, "clip_grad_kwargs", None)
    lower = f"lower the learning rate (now {rate:.3g}), lengthen its warm-up"
    parts = ["Look at the files above (mmonepeace doctor CONFIG)", lower]
    if not clipped:
        parts.append("clip gradients (optim_wrapper.clip_grad.max_norm=1.0)")
    if isinstance(wrapper, AmpOptimWrapper):
        parts.append("or use --dtype bf16 rather than --dtype fp16")
    return ", ".join(parts) + "; then go on with --resume."
