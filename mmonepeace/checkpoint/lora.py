"""LoRA in checkpoints: merged into the weights that it adapts, or alone in a folder of peft's layout.

A run stores `LAYER.base_layer.weight`, `LAYER.lora_A.default.weight` and `LAYER.lora_B.default.weight`,
as peft names them. Merging needs no peft: it is W + alpha / rank * B A, in float32, rounded to the dtype
of W. In bfloat16 that changes weights beyond the adaptation, and subtracting B A does not give W again:
keep the base.

Shapes: F outputs, K inputs, R rank.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmonepeace.atomic_file import atomic_file
from mmonepeace.checkpoint.errors import (
    CheckpointError,
    StateDict,
    explain_broken_file,
    prefix_errors,
)
from mmonepeace.checkpoint.integrity import refuse_non_finite
from mmonepeace.checkpoint.key_mapping import Conversion
from mmonepeace.checkpoint.reading import read
from mmonepeace.checkpoint.writing import write

DEFAULT_LORA = "default"  # the name of the LoRA that is trained
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of peft
OTHERS = "other_weights.safetensors"  # ours: heads and what else was trained
_BASE = ".base_layer."
_LORA = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])\.(?:(?P<name>\w+)\.)?weight")
_PEFT_PREFIX = "base_model.model."  # of `peft.PeftModel`
# Options of peft that make another sum than ours.
_UNSUPPORTED = (
    "use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias", "fan_in_fan_out",
    "modules_to_save", "target_parameters",
)  # fmt: skip


@dataclass
class StoredLora:
    """One LoRA.

    Attributes:
        alpha: its products are multiplied by alpha / rank.
        layers: name of a layer in the backbone -> (R, K) and (F, R).
        others: weights that were trained beside it, by their own names, heads included.
        pattern: regular expression of the layers, if it is known.
        dropout: of training.
    """

    alpha: float
    layers: dict[str, tuple[Tensor, Tensor]]
    others: StateDict = field(default_factory=dict)
    pattern: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        ranks = {rank for a, b in self.layers.values() for rank in (*a.shape[:1], *b.shape[1:])}
        if len(ranks) != 1 or any(a.ndim != 2 or b.ndim != 2 for a, b in self.layers.values()):
            raise CheckpointError("its LoRA has no layers, or its shapes do not agree; damaged.")
        (self.rank,) = ranks
        parts = (
            (layer, *part)
            for layer, pair in self.layers.items()
            for part in zip("AB", pair, strict=True)
        )
        refuse_non_finite({f"{layer}.lora_{part}": value for layer, part, value in parts})

    def merge_into(self, weights: StateDict) -> None:
        """Add the products to the weights of their layers, and put the others in.

        Raises:
            CheckpointError: if one of the layers is not there or has another shape.
        """
        for layer, (a_RK, b_FR) in self.layers.items():
            key = f"{layer}.weight"
            if key not in weights or weights[key].shape != (len(b_FR), a_RK.shape[1]):
                there = tuple(weights[key].shape) if key in weights else "not there"
                raise CheckpointError(
                    f"LoRA for {key} of shape {(len(b_FR), a_RK.shape[1])}, which is {there}. "
                    "Use the base that it was trained on."
                )
            base = weights[key]
            dtype = torch.promote_types(base.dtype, torch.float32)
            added = (b_FR.to(dtype) @ a_RK.to(dtype)) * (self.alpha / self.rank)
            weights[key] = (base.to(dtype) + added).to(base.dtype)
        weights.update(self.others)


def has_lora(names: Iterable[str]) -> bool:
    """Whether names of weights are those of a model with LoRA."""
    return any(_LORA.fullmatch(name) for name in names)


def base_name(name: str) -> str:
    """The name of a parameter in a model without LoRA."""
    return name.replace(_BASE, ".")


def take_lora(
    weights: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> tuple[StateDict, StoredLora]:
    """Weights of a run as those of a model without LoRA, and the LoRA.

    Args:
        weights: of a backbone, or of a model that has one as `backbone`.
        meta: metadata of the file.

    Raises:
        CheckpointError: if there is not exactly one LoRA, or the metadata lack its facts.
    """
    facts = _facts(meta)
    base: StateDict = {}
    found: dict[tuple[str, str, str], Tensor] = {}
    for key, value in weights.items():
        if match := _LORA.fullmatch(key):
            layer = match["layer"].removeprefix("backbone.")
            found[match["name"] or "", layer, match["part"]] = value
        else:
            base[base_name(key)] = value
    if len({name for name, *_ in found}) != 1:
        raise CheckpointError("it has several LoRAs. Write each with --to adapter, one per run.")
    layers = _pairs({(layer, part): value for (_, layer, part), value in found.items()})
    own = {key: _backbone(key) for key in base}
    others = {
        name: base[key]
        for key, (in_encoder, name) in own.items()
        if not in_encoder or name in facts["others"]
    }
    return base, StoredLora(facts["alpha"], layers, others, facts["pattern"], facts["dropout"])


def _pairs(found: Mapping[tuple[str, str], Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    names = list(dict.fromkeys(layer for layer, _ in found))
    if absent := [x for x in names if (x, "A") not in found or (x, "B") not in found]:
        raise CheckpointError(f"{absent[0]} has one of lora_A and lora_B only; damaged.")
    return {name: (found[name, "A"], found[name, "B"]) for name in names}


def _facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    if "lora" not in meta:
        raise CheckpointError(
            "it has LoRA, but its metadata do not say which alpha. Use a checkpoint that a run of "
            "mmonepeace wrote, complete."
        )
    kinds: dict[str, Any] = {"dropout": (int, float), "pattern": str, "others": list}
    kinds["alpha"] = kinds["dropout"]
    try:
        facts = json.loads(meta["lora"])
    except (ValueError, TypeError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not all(
        isinstance(facts.get(key), kind) for key, kind in kinds.items()
    ):
        raise CheckpointError(f"its metadata have the LoRA {str(meta['lora'])[:200]!r}; damaged.")
    return facts


def merged(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> StateDict:
    """Weights of a run with LoRA as those of a plain model, with the prefix `backbone.` if they have it."""
    base, lora = take_lora(weights, meta)
    prefix = "backbone." if any(key.startswith("backbone.") for key in base) else ""
    lora.layers = {prefix + layer: pair for layer, pair in lora.layers.items()}
    lora.others = {}
    lora.merge_into(base)
    return base


def write_lora(source: str | Path, folder: str | Path | None) -> Conversion:
    """Write the LoRA of a run's checkpoint in peft's layout, and what else was trained beside it.

    `peft.PeftModel.from_pretrained(backbone, folder)` reads it, but leaves out `other_weights.safetensors`.

    Args:
        source: file, or work directory with one.
        folder: for adapter_config.json, adapter_model.safetensors and, if there is more than LoRA,
            other_weights.safetensors, which has heads, and norms or biases if they were trained. None
            writes nothing.

    Returns:
        what is written.

    Raises:
        CheckpointError: if the source has no LoRA, or the folder cannot be written.
    """
    weights, meta = read(source)
    with prefix_errors(source):
        if not has_lora(weights):
            raise CheckpointError("it has no LoRA. Train with model.backbone.lora=dict(rank=16).")
        base, lora = take_lora(weights, meta)
    left_out = [
        (key, None, "part of the base") for key in base if _backbone(key)[1] not in lora.others
    ]
    result = Conversion({}, {"format": "pt"}, [*left_out])
    for layer, pair in lora.layers.items():
        for part, value in zip("AB", pair, strict=True):
            name = f"{layer}.lora_{part}.weight"
            result.add(name, f"{_PEFT_PREFIX}{name}", value)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.pattern,
        "bias": "none",
        "inference_mode": True,
    }
    if folder is not None:
        folder = Path(folder)
        write(folder / WEIGHTS, Conversion(dict(result.weights), {"format": "pt"}))
        (folder / OTHERS).unlink(missing_ok=True)  # of another run
        if lora.others:
            write(folder / OTHERS, Conversion(lora.others, {"format": "mmonepeace"}))
        with atomic_file(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(config, indent=1))
    for name, value in lora.others.items():
        result.add(name, name, value)
    return result


def _backbone(key: str) -> tuple[bool, str]:
    """Whether a name is of the encoder itself, and its own name."""
    own = re.sub(r"^backbone\.(?=(adapters|layers|norms|vit_adapter)\.)", "", key)
    return bool(re.match(r"(adapters|layers|norms)\.", own)), own


def read_lora(folder: str | Path) -> StoredLora:
    """Read a folder that `write_lora` or peft wrote.

    Raises:
        CheckpointError: if a file is missing or damaged, or its sum is not that of plain LoRA.
    """
    folder = Path(folder)
    with prefix_errors(folder):
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"has no {CONFIG}: it is not the folder of an adapter.")
        with explain_broken_file("the folder of an adapter"):
            config = json.loads((folder / CONFIG).read_text())
            kind, alpha = config["peft_type"], float(config["lora_alpha"])
            odd = [name for name in _UNSUPPORTED if config.get(name)]
            rank, pattern = config["r"], config.get("target_modules")
        if kind != "LORA" or odd:
            raise CheckpointError(
                f"it is {kind} with {', '.join(odd) or 'other layers'}, expected plain LORA. Merge it "
                "with peft, and use the merged model."
            )
        found = {}
        for key, value in read(folder / WEIGHTS)[0].items():
            match = _LORA.fullmatch(key.removeprefix(_PEFT_PREFIX).removeprefix("backbone."))
            if match is None:
                raise CheckpointError(f"{WEIGHTS} has {key}, expected lora_A and lora_B only.")
            found[match["layer"], match["part"]] = value
        others = read(folder / OTHERS)[0] if (folder / OTHERS).is_file() else {}
        lora = StoredLora(
            alpha, _pairs(found), others, pattern if isinstance(pattern, str) else None
        )
        if lora.rank != rank:
            raise CheckpointError(f"{CONFIG} has rank {rank}, {WEIGHTS} {lora.rank}; damaged.")
        return lora
