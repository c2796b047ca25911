"""Which parameters of a backbone are trained, where not all of them are."""

import re
from collections.abc import Sequence

from torch import nn

# Group -> names of its parameters; "norm" is all of norms, whatever their names.
GROUPS = {
    "bias": r".*\.bias",
    "norm": r"",
    "rpb": r"adapters\.\w+\.rpb\.tables\.\d+",
    "layer_scale": r"layers\.\d+\.gamma_[12]",
    "video": r"layers\.\d+\.(temporal|spatial|ffn)_adapter\w*\..*|.*\.temporal_embed|norms\..*",
    "position": r"adapters\.\w+\.(.*\.)?(cls_token|pos_embed|type_embed)",
}


def train_only(backbone: nn.Module, groups: Sequence[str]) -> None:
    """Freeze all parameters of a backbone but those of some groups and of LoRA.

    Args:
        backbone: the model.
        groups: keys of `GROUPS`. ("bias", "norm") is BitFit with norms; () freezes everything.

    Raises:
        ValueError: for an unknown group.
    """
    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(
            f"trained is {list(groups)}; choose of {', '.join(GROUPS)}, not {unknown[0]}."
        )
    norms = {
        id(parameter)
        for module in backbone.modules()
        if "norm" in groups and isinstance(module, nn.LayerNorm | nn.GroupNorm)
        for parameter in module.parameters()
    }
    for name, parameter in backbone.named_parameters():
        named = any(re.fullmatch(GROUPS[group], name) for group in groups)
        parameter.requires_grad_(named or id(parameter) in norms or ".lora_" in name)
