"""Layer-wise learning rate decay and weight decay groups."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from typing import Any, Literal, NamedTuple, get_args

import torch
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import nn

from mmonepeace.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

Preset = Literal[
    "default",
    "official-segmentation",
    "official-classification",
    "official-detection",
    "official-multimodal",
    "official-video",
]
# (name of a parameter) -> (its depth, number of depths)
GetDepth = Callable[[str], tuple[int, int]]

_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)
_POSITION = re.compile(r"(^|\.)(cls_token|pos_embed)$")
_TABLE = re.compile(r"(^|\.)rpb\.tables\.(\d+)$")
_HEAD_DEPTH_ZERO = re.compile(
    r"decode_head\.(mask_embed|cls_embed|level_embed|query_embed|query_feat)(\.|$)"
)
# A missing comma concatenates two entries of the official list, so these two do decay.
_CONCATENATED = {"decoder.adapters.text.cls_token", "decoder.adapters.image.pos_embed"}


class ParamGroup(NamedTuple):
    """The optimiser group of a parameter; `lr_scale` multiplies the base learning rate."""

    layer_id: int
    lr_scale: float
    weight_decay: float


@dataclass(frozen=True)
class LayerDecayRule:
    """Learning rate and weight decay of a parameter.

    The learning rate is multiplied by `decay_rate ** (last depth - depth)`.

    Attributes:
        decay_rate: in (0, 1].
        weight_decay: of the parameters that decay.
        preset: "default" excludes what should not decay: vectors, biases, positions, CLS, type
            embeddings, queries of the backbone and RPB tables. The official ones reproduce the
            groups of the released recipes, flaws included: segmentation decays positions and CLS
            and gives the queries of the mask head the lowest rate; of videos all but norms decays.
        depth_zero: prefixes of the names that get the lowest learning rate.
        no_decay: prefixes of the names that do not decay.
        factors: (prefix of names, factor of their learning rate); the longest prefix counts.
    """

    decay_rate: float
    weight_decay: float
    preset: Preset = "default"
    depth_zero: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = ()
    factors: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ValueError(
                f"preset is {self.preset!r}; choose one of {', '.join(get_args(Preset))}."
            )
        if not 0 < self.decay_rate <= 1:
            raise ValueError(f"decay_rate is {self.decay_rate}; it must be in (0, 1].")
        if wrong := [(name, factor) for name, factor in self.factors if factor < 0]:
            raise ValueError(f"factors has {wrong[0][1]} for {wrong[0][0]}, expected 0 or more.")

    def group(
        self, name: str, shape: Sequence[int], get_depth: GetDepth, in_norm: bool = False
    ) -> ParamGroup:
        """The optimiser group of a parameter; `get_depth` gives the depth of a name."""
        depth, num_depths = get_depth(name)
        table = _TABLE.search(name)
        if self.preset == "official-multimodal" and table:
            depth = int(table[2]) + 1  # also a shared table, unlike the vision recipes
        elif name.startswith(self.depth_zero) or (
            self.preset == "official-segmentation" and _HEAD_DEPTH_ZERO.match(name)
        ):
            depth = 0
        decays = not name.startswith(self.no_decay) and self._decays(name, shape, in_norm)
        scale = self.decay_rate ** (num_depths - 1 - depth)
        found = [
            (len(prefix), factor) for prefix, factor in self.factors if name.startswith(prefix)
        ]
        scale *= max(found)[1] if found else 1.0
        return ParamGroup(depth, scale, self.weight_decay if decays else 0.0)

    def _decays(self, name: str, shape: Sequence[int], in_norm: bool) -> bool:
        is_vector = len(shape) <= 1 or name.endswith(".bias")
        is_position = bool(_POSITION.search(name)) and name not in _CONCATENATED
        match self.preset:
            case "official-segmentation":
                return not is_vector
            case "official-classification":
                return len(shape) != 1 and not is_position
            case "official-detection":
                return not in_norm and not name.endswith("pos_embed")
            case "official-multimodal":
                return not is_vector and not is_position
            case "official-video":
                return not in_norm
        is_embedding = name.endswith(("type_embed", "backbone.queries"))
        return not (is_vector or is_position or _TABLE.search(name) or is_embedding)


def numbered_depth(names: Iterable[str], prefix: str) -> GetDepth:
    """Depths for a backbone without `get_layer_depth`: its numbered blocks in order.

    Of the parameters `names`, those before the blocks get 0, block i gets i + 1, and everything else
    the last depth; `prefix` is that of the backbone.
    """
    numbered = re.compile(
        rf"{re.escape(prefix)}(?:\w+\.)*?(?:layers|blocks|stages)\.\d+(?:\.blocks\.\d+)?"
    )
    first = re.compile(rf"{re.escape(prefix)}(patch_embed|stem|cls_token|pos_embed|mask_token)")
    order: dict[str, int] = {}
    for name in names:
        if match := numbered.match(name):
            order.setdefault(match[0], len(order) + 1)

    def get_depth(name: str) -> tuple[int, int]:
        if match := numbered.match(name):
            return order[match[0]], len(order) + 2
        return (0 if first.match(name) else len(order) + 1), len(order) + 2

    return get_depth


def find_depth(model: nn.Module) -> GetDepth:
    """`get_layer_depth` of the model or of its part that has it, else counts of numbered blocks."""
    for name, module in model.named_modules():
        method = getattr(module, "get_layer_depth", None)
        # A classifier of mmpretrain has one too, which only forwards to its backbone.
        if method and "prefix" in signature(method).parameters:
            return partial(_depth_in, module, f"{name}." if name else "")
    names = [name for name, _ in model.named_parameters()]
    prefix = "backbone." if any(name.startswith("backbone.") for name in names) else ""
    return numbered_depth(names, prefix)


def _depth_in(module: Any, prefix: str, name: str) -> tuple[int, int]:
    """Depth of a parameter of a model whose `module`, at `prefix`, gives the depths."""
    depth, num_depths = module.get_layer_depth(name, prefix)
    return (depth if name.startswith(prefix) else num_depths - 1), num_depths


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimiser groups with layer-wise learning rate decay.

    `paramwise_cfg` takes `decay_rate` (required), `preset`, `depth_zero`, `no_decay` and `factors`, a dict; see
    `LayerDecayRule`. The model's `get_layer_depth` gives the depths.
    """

    def _validate_cfg(self) -> None:
        known = {"decay_rate", "preset", "depth_zero", "no_decay", "factors"}
        unknown = sorted(set(self.paramwise_cfg) - known)
        if unknown or "decay_rate" not in self.paramwise_cfg:
            raise ValueError(
                f"paramwise_cfg has keys {sorted(self.paramwise_cfg)}; expected decay_rate and "
                f"any of {sorted(known - {'decay_rate'})}."
            )

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Fill `params` with one group per depth and weight decay."""
        cfg = dict(self.paramwise_cfg)
        for key in ("depth_zero", "no_decay"):
            value = cfg.get(key, ())
            cfg[key] = (value,) if isinstance(value, str) else tuple(value)
        cfg["factors"] = tuple(dict(cfg.get("factors", ())).items())
        rule = LayerDecayRule(weight_decay=self.base_wd or 0.0, **cfg)
        get_depth = find_depth(module)
        norms = {id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters()}
        groups: dict[ParamGroup, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                group = rule.group(name, parameter.shape, get_depth, id(parameter) in norms)
                groups.setdefault(group, []).append((name, parameter))
        for group, members in sorted(groups.items()):
            params.append(
                {
                    "params": [parameter for _, parameter in members],
                    "lr": self.base_lr * group.lr_scale,
                    "weight_decay": group.weight_decay,
                    "lr_scale": group.lr_scale,
                    "layer_id": group.layer_id,
                    "param_names": [name for name, _ in members],
                }
            )
        _print_groups(groups)


@master_only
def _print_groups(groups: dict[ParamGroup, list[tuple[str, nn.Parameter]]]) -> None:
    from prettytable import PrettyTable

    table = PrettyTable(["depth", "lr x", "weight decay", "tensors", "parameters", "such as"])
    table.align = "r"
    table.align["such as"] = "l"
    for group, members in sorted(groups.items()):
        count = sum(parameter.numel() for _, parameter in members)
        depth, scale, decay = group
        table.add_row([depth, f"{scale:.4f}", decay, len(members), f"{count:,}", members[0][0]])
    print_log(f"Optimiser groups:\n{table}", logger="current")


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on GPUs and CPUs; bfloat16 needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        device = next(model.parameters()).device.type
        if device == "cpu":
            _say_how_bfloat16_is_multiplied()
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@cache
def _say_how_bfloat16_is_multiplied() -> None:
    features = torch.cpu.get_capabilities()
    if found := [name for name, has in features.items() if has and name.endswith("bf16")]:
        names = ", ".join(sorted(found))
        print_log(f"bfloat16: this CPU multiplies it ({names}).", logger="current")
        return
    print_log(
        "bfloat16: this CPU has no instructions to multiply it, which takes longer than float32. It saves "
        "memory; to save time, leave --dtype bf16 out.",
        logger="current",
        level=logging.WARNING,
    )
