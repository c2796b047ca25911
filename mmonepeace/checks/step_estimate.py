"""What a training step of a recipe needs, found by running it on tensors without numbers.

The step is the recipe's own: its model, loss, optimiser and precision, and a synthetic batch. No weights
are read or allocated. Of stochastic depth all branches are computed, the most that a step can need.
"""

import copy
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mmonepeace.checks.building import build_on_meta, quietly
from mmonepeace.checks.explanations import explain
from mmonepeace.checks.fake_gpu import backward, pretended_gpu
from mmonepeace.checks.fake_tensors import (
    counts_of,
    matched_in_order,
    tensors_of,
    to_device,
    to_fake,
)
from mmonepeace.checks.known_numbers import KnownNumbers
from mmonepeace.checks.live_memory import Block, LiveMemory
from mmonepeace.checks.report import CheckError
from mmonepeace.checks.synthetic_batch import batch_size_of, synthetic_batch

Device = Literal["cpu", "cuda"]
# Of mixed precision, by the end of the wrapper's name.
_PRECISIONS = {"BFloat16OptimWrapper": torch.bfloat16, "AmpOptimWrapper": torch.float16}
_OF_AMP = ("type", "dtype", "loss_scale", "use_fsdp")
PARTS = {
    "weights": "weights and buffers",
    "gradients": "gradients",
    "optimiser": "optimiser state",
    "average": "averages of weights (EMA)",
    "batch": "batch",
    "caches": "index maps and other constants",
    "kept": "activations kept for the backward pass",
    "temporary": "temporary, at the peak",
}


@dataclass
class Estimate:
    """What a step needs; sizes in bytes, of one process.

    Attributes:
        parameters: of the model.
        trained: those of them that are trained.
        parts: key of `PARTS` -> bytes at the moment of the peak.
        peak_phase: "forward", "backward" or "update", where the peak is.
        activations: kept at the end of the forward pass.
        operations: "forward", "backward" and "inference" -> multiplications and additions of products,
            convolutions and attention of a batch; what checkpointing recomputes is in "backward".
        device: "cpu" or "cuda".
        dtype: of products.
        batch: samples.
        sizes: shapes of their inputs.
        shards: processes that share weights, gradients and optimiser state.
        notes: lines to print.
    """

    parameters: int
    trained: int
    parts: dict[str, int]
    peak_phase: str
    activations: int
    operations: dict[str, int]
    device: str
    dtype: str
    batch: int = 0
    sizes: dict[str, list[int]] = field(default_factory=dict)
    shards: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Most bytes at once."""
        return sum(self.parts.values())

    def rows(self) -> list[tuple[str, int]]:
        """(what a part is, its bytes) at the moment of the peak."""
        return [(title, self.parts[key]) for key, title in PARTS.items()]

    def to_dict(self) -> dict[str, Any]:
        """All values, for programs."""
        return {**asdict(self), "peak": self.peak}


def estimate_step(
    cfg: Config,
    device: Device = "cuda",
    image_size: int | None = None,
    batch_size: int | None = None,
    shards: int = 1,
) -> Estimate:
    """Estimate a training step of a recipe.

    Args:
        cfg: the recipe, see `read_config`.
        device: that it will be trained on.
        image_size: side of its images in pixels; None: as the recipe crops them.
        batch_size: samples of a process; None: the recipe's.
        shards: processes of `FSDP2Strategy`.

    Raises:
        CheckError: if the model cannot be built, or its loss needs numbers.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    with explain(cfg, log=False), quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not cfg.get("train_dataloader") or not cfg.get("model") or not cfg.get("optim_wrapper"):
            raise CheckError(
                "this config lacks a model, a train_dataloader or an optim_wrapper: there is no step."
            )
        model = build_on_meta(cfg.model)
        if model is None:
            raise CheckError(
                f"model.type {cfg.model.type}: it computes with its weights while it is built, so that "
                "they would be needed. Try mmonepeace train --dry-run, which measures real steps."
            )
        data = synthetic_batch(cfg, model, image_size, batch_size)
        sizes, counts = _sizes(data), counts_of(model, data)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake as mode, KnownNumbers().follow(), pretended_gpu(), matched_in_order(model):
            model = to_device(revert_sync_batchnorm(model), device)
            for outside in _outside(model):
                to_device(outside, device)
            batch = to_fake(data, mode, device)
            try:
                found = measure_step(cfg, model, batch, device, counts)
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise CheckError(
                    f"model.type {cfg.model.type}: its loss cannot be computed without numbers "
                    f"({reason[0]}). Try mmonepeace train --dry-run, which measures real steps."
                ) from error
    found.batch = batch_size_of(cfg) if batch_size is None else batch_size
    found.sizes = sizes
    if frozen := sum(p.numel() for part in _outside(model) for p in part.parameters()):
        found.notes.append(f"weights include {frozen:,} frozen parameters of the teacher")
    return _shared(found, model, cfg, shards) if shards > 1 else found


def measure_step(
    cfg: Config,
    model: BaseModel,
    batch: dict[str, Any],
    device: Device,
    counts: dict[tuple[int, ...], int] | None = None,
) -> Estimate:
    """Run the second training step of a model, and a forward pass of inference, and follow memory.

    Args:
        cfg: its recipe.
        model: on a device, with real or fake tensors.
        batch: what its preprocessor gives.
        device: "cpu" or "cuda".
        counts: of fake tensors, see `LiveMemory`.
    """
    memory, step = LiveMemory(device, counts), Step(cfg, model, device)
    with memory:
        weights = memory.include(_tensors(model), "weights")
        memory.include([x for part in _outside(model) for x in _tensors(part)], "weights")
        memory.include(tensors_of(batch), "batch")
        step.prepare()
        memory.include(step.state(), "optimiser")
        moments: dict[str, int] = {}

        def enter(phase: str) -> None:
            moments[phase] = memory.moment()
            memory.phase = phase
            if phase == "update":
                memory.include(step.gradients(), "gradients")

        memory.start()
        step.run(batch, enter)
        enter("inference")
        kept = {id(b): b for b in memory.at(moments["backward"]) if b.phase == "forward"}
        end = moments["inference"]
        at_peak = memory.at()
        parts = dict.fromkeys(PARTS, 0)
        for block in at_peak:
            parts[_kind(block, kept, end)] += block.size
        activations = sum(b.size for b in kept.values() if _kind(b, kept, end) == "kept")
        peak_phase = memory.peak_phase
        step.infer(batch)
    if _has_average(cfg):
        parts["average"] = weights
    return Estimate(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in step.trained),
        parts=parts,
        peak_phase=peak_phase,
        activations=activations,
        operations={
            name: memory.operations.get(name, 0) for name in ("forward", "backward", "inference")
        },
        device=device,
        dtype=str(step.dtype or torch.float32).removeprefix("torch."),
    )


class Step:
    """A training step of a recipe, as its runner takes it, on any tensors.

    Args:
        cfg: the recipe.
        model: on a device; its stochastic depth is turned off.
        device: "cpu" or "cuda".

    Attributes:
        trained: parameters.
        dtype: of mixed precision, or None.
    """

    def __init__(self, cfg: Config, model: BaseModel, device: Device) -> None:
        self.model, self.device = model, device
        for module in model.modules():
            if type(module).__name__ == "DropPath" and hasattr(module, "rate"):
                module.rate = 0.0
        name = str(cfg.optim_wrapper.get("type", "")).rpartition(".")[2]
        self.dtype = _PRECISIONS.get(name)
        self.wrapper = _optimiser(cfg, model, device)
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def prepare(self) -> None:
        """Make the state of the optimiser, as the first step does."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self.wrapper.optimizer.step()
        if self.wrapper._accumulative_counts == 1:  # else there are gradients before most steps
            self.wrapper.zero_grad()

    def state(self) -> list[Tensor]:
        """Tensors of the optimiser."""
        values = [x for state in self.wrapper.optimizer.state.values() for x in state.values()]
        return [x for x in values if isinstance(x, Tensor)]

    def gradients(self) -> list[Tensor]:
        """Gradients that there are."""
        return [p.grad for p in self.trained if p.grad is not None]

    def run(self, batch: dict[str, Any], enter: Callable[[str], None] = lambda _: None) -> None:
        """Take a step; `enter` is called with "forward", "backward" and "update" before each."""
        self.model.train()
        enter("forward")
        with self._autocast():
            losses = self.model._run_forward(batch, mode="loss")
        loss = self.model.parse_losses(losses)[0]
        del losses
        enter("backward")
        if isinstance(loss, FakeTensor) and self.device == "cuda":
            backward(loss)
        else:
            loss.backward()
        del loss
        enter("update")
        if self.wrapper.clip_grad_kwargs:
            self.wrapper._clip_grad()
        self.wrapper.optimizer.step()
        self.wrapper.zero_grad()

    @torch.no_grad()
    def infer(self, batch: dict[str, Any]) -> None:
        """A forward pass without gradients."""
        self.model.eval()
        with self._autocast():
            self.model._run_forward(batch, mode="tensor")

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)


def _kind(block: Block, kept: dict[int, Block], end: int) -> str:
    if block.kind:
        return block.kind
    if id(block) not in kept:
        return "temporary"
    return "caches" if block.freed is None or block.freed > end else "kept"


def _optimiser(cfg: Config, model: nn.Module, device: str) -> OptimWrapper:
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    if not isinstance(wrapper.get("optimizer"), dict):
        raise CheckError("optim_wrapper: several optimisers; the estimate takes one.")
    if device == "cuda" and not wrapper.optimizer.get("fused"):
        # What PyTorch chooses for parameters on GPUs; not for fake ones.
        wrapper.optimizer.foreach = True
    return build_optim_wrapper(model, {k: v for k, v in wrapper.items() if k not in _OF_AMP})


def _has_average(cfg: Config) -> bool:
    return any(
        str(hook.get("type", "")).endswith("EMAHook") for hook in cfg.get("custom_hooks") or []
    )


def _outside(model: nn.Module) -> list[nn.Module]:
    """What a model uses and does not have as a part, such as the frozen teacher of a student."""
    return model.modules_outside() if hasattr(model, "modules_outside") else []  # type: ignore[operator]


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _sizes(batch: dict[str, Any]) -> dict[str, list[int]]:
    """Shapes of the inputs of a batch."""
    inputs = batch["inputs"]
    by_name = inputs if isinstance(inputs, dict) else {"image": inputs}
    first = {name: x[0] if isinstance(x, tuple) else x for name, x in by_name.items()}
    return {name: list(x.shape) for name, x in first.items()}


def _shared(found: Estimate, model: nn.Module, cfg: Config, shards: int) -> Estimate:
    """The share of one of several processes, by the rules of `FSDP2Strategy`.

    What is outside of blocks is gathered for the whole step; of blocks the one that is computed and
    the next one, and the gradient of one before it is summed over processes.
    """
    names = (cfg.get("strategy") or {}).get("blocks", ("EncoderLayer",))
    blocks = [m for m in model.modules() if type(m).__name__ in names]
    if not blocks:
        raise CheckError(f"--fsdp: the model has no blocks to shard, {', '.join(names)}.")
    half = found.dtype == "bfloat16" and found.device == "cuda"
    of_block = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    inside = {id(p) for block in blocks for p in block.parameters()}
    outside = sum(p.numel() for p in model.parameters() if id(p) not in inside)
    gathered = outside * 4 + of_block * (2 * (2 if half else 4) + 4)
    parts = dict(found.parts)
    whole = sum(x.nbytes for part in _outside(model) for x in _tensors(part))  # each has all of it
    parts["weights"] -= whole
    for key in ("weights", "gradients", "optimiser", "average"):
        parts[key] = -(-parts[key] // shards)
    parts["weights"] += whole
    parts["temporary"] += gathered
    found.parts, found.shards = parts, shards
    found.notes.append(
        f"FSDP: {gathered / 1e9:.2f} GB of gathered weights are part of what is temporary"
    )
    return found
