"""LoRA on the blocks of a backbone, by `peft`; several of them on one backbone, switched by name.

W x + b becomes W x + b + alpha / rank * B A x, where A (rank, K) and B (F, rank) are trained, and B
starts at zero: at first nothing changes. Layers that are replaced are no `nn.Linear` any more, so
kernels that read weights (`layers.kernels.linear`, `GeGLU`) leave them to `peft`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mmonepeace import checkpoint
from mmonepeace.checkpoint import DEFAULT_LORA

TARGETS = {
    "q": r"attn\.q_proj",
    "k": r"attn\.k_proj",
    "v": r"attn\.v_proj",
    "out": r"attn\.out_proj",
    "gate": r"ffn\.\w+\.gate",
    "up": r"ffn\.\w+\.up",
    "down": r"ffn\.\w+\.down",
}


@dataclass(frozen=True)
class Lora:
    """Options of LoRA.

    Attributes:
        rank: of the products that are added.
        alpha: they are multiplied by alpha / rank.
        dropout: of their inputs, in training.
        targets: layers of each block, keys of `TARGETS`; of the FFNs, those of all modalities.

    Raises:
        ValueError: for numbers or names that cannot be.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "v")

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora has rank {self.rank}, alpha {self.alpha} and dropout {self.dropout}; expected "
                "a rank of at least 1, a positive alpha and a dropout in [0, 1)."
            )
        if not self.targets or set(self.targets) - set(TARGETS):
            raise ValueError(
                f"lora.targets are {list(self.targets)}; choose one or more of {', '.join(TARGETS)}."
            )

    @property
    def pattern(self) -> str:
        """Regular expression of the full names of the layers."""
        return rf"layers\.\d+\.({'|'.join(TARGETS[name] for name in self.targets)})"

    def metadata(self, backbone: nn.Module) -> str:
        """What no weight tells of it, for checkpoints: `checkpoint.take_lora` reads it."""
        others = [
            checkpoint.base_name(name)
            for name, parameter in backbone.named_parameters()
            if parameter.requires_grad and not checkpoint.has_lora([name])
        ]
        facts = {"alpha": self.alpha, "dropout": self.dropout, "pattern": self.pattern}
        return json.dumps({**facts, "others": others})


def inject(backbone: nn.Module, options: Lora) -> None:
    """Put LoRA around layers of an `OnePeace`, in place; everything else of it is frozen.

    Raises:
        ValueError: if peft is missing.
    """
    _inject(backbone, DEFAULT_LORA, options.pattern, options.rank, options.alpha, options.dropout)


def _inject(
    backbone: nn.Module, name: str, pattern: str, rank: int, alpha: float, dropout: float = 0.0
) -> None:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ValueError("lora needs peft: pip install 'mmonepeace[lora]'.") from None
    # peft calls alpha an integer, and divides it by the rank.
    options: dict[str, Any] = dict(r=rank, lora_alpha=alpha, lora_dropout=dropout)
    config = peft.LoraConfig(**options, target_modules=pattern)
    peft.inject_adapter_in_model(config, backbone, name)


def load_lora(backbone: nn.Module, folder: str | Path, name: str) -> None:
    """Add the LoRA of a folder, as `mmonepeace convert --to adapter` or peft wrote it, and use it.

    It is not trained. What was trained beside it is left out: `checkpoint.read_own(base, folder)` takes it.

    Args:
        backbone: an `OnePeace`, with or without LoRA.
        folder: with adapter_config.json and adapter_model.safetensors.
        name: by which `use_lora` chooses it, a word.

    Raises:
        CheckpointError: if the folder cannot be used, or a weight of it does not fit.
        ValueError: if the name is taken, or peft is missing.
    """
    if name in names(backbone) or not name.isidentifier():
        raise ValueError(f"the name {name!r} is taken or not a word; choose another one.")
    stored = checkpoint.read_lora(folder)
    wanted = set(stored.layers)
    layers = {checkpoint.base_name(f"{key}.")[:-1]: x for key, x in backbone.named_modules()}
    for key, (a_RK, b_FR) in stored.layers.items():
        shape = getattr(getattr(layers.get(key), "weight", None), "shape", None)
        if shape != (len(b_FR), a_RK.shape[1]):
            raise checkpoint.CheckpointError(
                f"{folder}: {key} of shape {(len(b_FR), a_RK.shape[1])} does not fit this model, which "
                f"has {shape and tuple(shape)}. Use the base that it was trained on."
            )
    with _trained_as_before(backbone):
        _inject(backbone, name, "|".join(map(re.escape, wanted)), stored.rank, stored.alpha)
        for key, layer in backbone.named_modules():
            if key in wanted:
                wanted.remove(key)
                for part, value in zip("AB", stored.layers[key], strict=True):
                    weight = getattr(layer, f"lora_{part}")[name].weight
                    weight.data.copy_(value)
    assert not wanted, wanted
    use_lora(backbone, name)


def use_lora(backbone: nn.Module, name: str | None) -> None:
    """Choose the LoRA that a backbone computes with; None: the base alone. What is trained stays so.

    Raises:
        ValueError: if there is none of this name.
    """
    if name is not None and name not in (known := names(backbone)):
        raise ValueError(f"there is no LoRA {name!r}; choose None or one of {sorted(known)}.")
    with _trained_as_before(backbone):
        for layer in _layers(backbone):
            layer.enable_adapters(
                name in layer.lora_A
            )  # it need not adapt all layers that another does
            if name in layer.lora_A:
                layer.set_adapter(name)


@contextmanager
def _trained_as_before(backbone: nn.Module) -> Iterator[None]:
    """Undo what peft does to `requires_grad`; new parameters are not trained."""
    trained = {parameter for parameter in backbone.parameters() if parameter.requires_grad}
    yield
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter in trained)


def names(backbone: nn.Module) -> set[str]:
    """Names of the LoRAs of a backbone."""
    return {name for layer in _layers(backbone) for name in layer.lora_A}


def _layers(backbone: nn.Module) -> list[Any]:
    return [m for m in backbone.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
