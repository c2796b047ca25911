"""Training with sharded weights: each process keeps a shard of every parameter and its state."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, NoReturn

import torch
from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.utils import clip_grad_norm_, get_total_norm

from mmonepeace.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDP2Strategy(DDPStrategy):
    """Fully sharded data parallel training (torch's `fully_shard`) for `PretrainRunner`.

    The model is built on the meta device and materialised in shards. For a random start, rank 0
    initialises the full model in CPU memory and scatters it, so that the start is that of a single
    process; where weights are loaded, each process keeps its own rows of them.

    Args:
        blocks: names of the classes whose modules are gathered one after another. All else is
            gathered for the whole step.
        param_dtype: "bfloat16" computes under autocast, evaluations too, and on GPUs gathers the
            blocks in it; weights, their gradients and the optimiser stay in float32. "float32"
            does neither.
        sharded: write each checkpoint as a folder, to which each process adds its rows, rather
            than as one file, for which rank 0 gathers everything.
        kwargs: of MMEngine's `DDPStrategy`.

    Raises:
        RuntimeError: if the processes were not started by a launcher, or torch is too old.
        ValueError: if `param_dtype` is neither.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[str] = ("EncoderLayer",),
        param_dtype: str = "float32",
        sharded: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not self.distributed:
            raise RuntimeError(
                "FSDP2Strategy shards over the processes of a launcher, and there is none. Start "
                "with tools/dist_pretrain.sh CONFIG GPUS, also for a single GPU."
            )
        if "ignored_params" not in signature(fully_shard).parameters:
            raise RuntimeError(
                f"torch {torch.__version__} cannot leave parameters unsharded, which the logit "
                "scale needs. Install torch 2.8 or newer, or train with --strategy ddp."
            )
        if param_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"param_dtype is {param_dtype!r}; choose float32 or bfloat16.")
        self.blocks = tuple(blocks)
        self.param_dtype = getattr(torch, param_dtype)
        self.sharded = sharded
        self.device = get_device()
        self.mesh = init_device_mesh(self.device, (self.world_size,))
        self.skip_init = False  # set by the runner when a checkpoint provides all weights
        self._initial: BaseModel | None = None

    def build_model(self, model: dict[str, Any]) -> nn.Module:
        """Build the model on the meta device; on rank 0 also a full copy to initialise."""
        if self.rank == 0 and not self.skip_init:
            self._initial = super().build_model(model)
        with torch.device("meta"):
            return super().build_model(model)

    def _init_model_weights(self, model: nn.Module) -> nn.Module:
        if self._initial is not None:
            self._initial.init_weights()
        return model

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        blocks = [module for module in model.modules() if type(module).__name__ in self.blocks]
        if not blocks:
            raise ValueError(
                f"strategy.blocks is {self.blocks}, but {type(model).__name__} has no module of "
                "such a class, so all of it would be gathered at once. Name its blocks."
            )
        if any(".lora_" in name for name, _ in model.named_parameters()):
            raise ValueError(
                "lora and --strategy fsdp2: weights are loaded as shards, and those of LoRA, which no "
                "checkpoint has, would stay empty. Use --strategy ddp: what is frozen needs no gradients."
            )
        # Scalars cannot be sharded.
        scalars = {p for p in model.parameters() if not p.ndim}
        # On a CPU, unlike on a GPU, autocast leaves the inputs of LayerNorm in mixed dtypes.
        gathered = self.param_dtype if self.mesh.device_type == "cuda" else torch.float32
        policy = MixedPrecisionPolicy(
            gathered, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for block in blocks:
            fully_shard(block, mesh=self.mesh, mp_policy=policy, ignored_params=scalars)
        fully_shard(model, mesh=self.mesh, ignored_params=scalars)
        model.to_empty(device=self.device)
        model.data_preprocessor.to(self.device)
        if not self.skip_init:
            self._scatter(model)
        for module in model.modules():
            module.register_load_state_dict_pre_hook(self._shard_loaded)
        for parameter in model.parameters():
            if not parameter.ndim and parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_average_gradient)
        if self.param_dtype != torch.float32:
            # Evaluations too: weights in bfloat16 meet activations in float32.
            autocast = torch.autocast(self.mesh.device_type, self.param_dtype)
            model.forward = autocast(model.forward)
        return model

    @torch.no_grad()
    def _scatter(self, model: nn.Module) -> None:
        """Give every process its rows of the model of rank 0."""
        initial = self._initial.state_dict() if self._initial is not None else {}
        for name, value in model.state_dict().items():
            if name in initial:
                full = initial[name].to(self.device)
            else:
                full = torch.empty(value.shape, dtype=value.dtype, device=self.device)
            dist.broadcast(full, 0)
            value.copy_(self.take([full]) if isinstance(value, DTensor) else full)
        self._initial = None

    def _shard_loaded(
        self, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any
    ) -> None:
        """Make any loading of full tensors work: keep the rows of this process."""
        for name, parameter in module.named_parameters(prefix.removesuffix("."), recurse=False):
            value = state_dict.get(name)
            if isinstance(parameter, DTensor) and not isinstance(value, DTensor | None):
                state_dict[name] = self.take([value])

    def take(self, shards: Sequence[Tensor]) -> Tensor:
        """The rows of this process, on its device.

        Args:
            shards: the full tensor alone, or the rows of each process of an earlier run.
        """
        first = shards[0]
        if not first.ndim:
            return first.clone()
        if len(shards) == self.world_size:
            rows = shards[self.rank]
        else:
            full = first if len(shards) == 1 else torch.cat(list(shards))
            chunks = full.chunk(self.world_size)  # as `fully_shard` does; may be fewer
            rows = chunks[self.rank] if self.rank < len(chunks) else full[:0]
        shape = torch.Size((sum(map(len, shards)), *first.shape[1:]))
        return DTensor.from_local(
            rows.to(self.device, copy=True).contiguous(),
            self.mesh,
            [Shard(0)],
            run_check=False,
            shape=shape,
            stride=torch.empty(shape, device="meta").stride(),
        )

    def store(self, tensor: Tensor) -> Tensor | None:
        """What this process writes of a tensor; all processes must call it.

        Returns:
            on the CPU: with `sharded` its own rows, else on rank 0 the full tensor; None if this
            process writes nothing of it.
        """
        mine = self.rank == 0
        if isinstance(tensor, DTensor):
            mine = mine or self.sharded
            tensor = tensor.to_local() if self.sharded else tensor.full_tensor()
        # A copy without the rest of the storage.
        return tensor.detach().to("cpu", copy=True) if mine else None

    def build_optim_wrapper(
        self, optim_wrapper: dict[str, Any], model: nn.Module | None = None
    ) -> OptimWrapper:
        """Build an optimiser that clips gradients by their norm over all processes."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if wrapper.clip_grad_kwargs and wrapper.clip_func is clip_grad_norm_:
            wrapper.clip_func = clip_grad_norm
        return wrapper

    def save_checkpoint(self, *_: Any, **__: Any) -> NoReturn:
        """Not supported: MMEngine's format has no shards.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "FSDP2Strategy does not write checkpoints itself. Use it with "
            "runner_type='mmonepeace.PretrainRunner', which does."
        )


def clip_grad_norm(
    parameters: Sequence[nn.Parameter], max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Clip gradients by their norm over all parameters, sharded or not; returns the norm before."""
    sharded, unsharded = list[Tensor](), list[Tensor]()
    for parameter in parameters:
        gradient: Any = parameter.grad
        is_sharded = isinstance(gradient, DTensor)
        (sharded if is_sharded else unsharded).append(
            gradient.to_local() if is_sharded else gradient
        )
    total = get_total_norm(sharded, norm_type) ** norm_type
    dist.all_reduce(total)
    if unsharded:
        total += get_total_norm(unsharded, norm_type) ** norm_type
    norm = total ** (1 / norm_type)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1)  # 1e-6 as in torch's own clipping
    for gradient in (*sharded, *unsharded):
        gradient.mul_(factor)
    return norm


def _average_gradient(parameter: nn.Parameter) -> None:
    """Average the gradient of a parameter that is not sharded over the processes."""
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()  # type: ignore[assignment, operator]  # not None
