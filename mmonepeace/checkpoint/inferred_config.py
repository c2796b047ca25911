"""The configuration of the model that weights belong to, read off their names and shapes."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError, explain_broken_file, prefix_errors
from mmonepeace.layers.adapters import ADAPTERS
from mmonepeace.layers.resampling import rpb_side
from mmonepeace.spec import LAYER_SCALE_INIT, PATCH_SIZE, PRETRAIN_IMG_SIZE

_MAX_IMG_SIZE = 4096  # larger maps of relative positions would fill the memory of any machine


class _Shapes(dict[str, torch.Size]):
    """Shapes of the weights behind a prefix, with an error that names what is missing."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str = "") -> None:
        self.prefix = prefix
        super().__init__(
            (name.removeprefix(prefix), value.shape)
            for name, value in weights.items()
            if name.startswith(prefix)
        )

    def __getitem__(self, name: str) -> torch.Size:
        shape = super().__getitem__(name)
        if 0 in shape or not shape:
            raise CheckpointError(f"{self.prefix}{name} has shape {tuple(shape)}; damaged.")
        return shape

    def __missing__(self, name: str) -> torch.Size:
        raise CheckpointError(f"{self.prefix}{name} is missing. Is this a part of a checkpoint?")

    def have(self, start: str, end: str = "") -> bool:
        return any(name.startswith(start) and name.endswith(end) for name in self)


def infer_config(
    weights: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the keyword arguments of `models.OnePeace` off its weights: no configuration is needed.

    Args:
        weights: own names, as `to_own` gives them; only names and shapes are read.
        meta: metadata of the file.

    Raises:
        CheckpointError: if a parameter that an argument follows from is missing, or the weights
            have a modality that is not in `layers.adapters.ADAPTERS`.
    """
    with explain_broken_file("the weights of a ONE-PEACE encoder"):
        return _infer(weights, meta)


def _stem(shapes: "_Shapes") -> str:
    """The variant of the image stem; that of the released models, if there is no image branch."""
    if "adapters.image.stem.weight" in shapes:
        return "conv"
    return "overlapping" if "adapters.image.stem.proj.weight" in shapes else "hmlp"


def _infer(weights: Mapping[str, Tensor], meta: Mapping[str, Any] | None) -> dict[str, Any]:
    shapes = _Shapes(weights)
    stored = {name.split(".")[1] for name in shapes if name.startswith("adapters.")}
    if not stored:
        raise CheckpointError("the weights have no adapter: they are not a ONE-PEACE encoder's.")
    if unknown := sorted(stored - set(ADAPTERS)):
        raise CheckpointError(
            f"the weights have the modality {', '.join(unknown)}, for which there is no adapter. "
            "Import the module that adds it to mmonepeace.layers.adapters.ADAPTERS first."
        )
    modalities = {
        name: adapter.infer_options(_Shapes(weights, f"adapters.{name}."), meta or {})
        for name, adapter in ADAPTERS.items()
        if name in stored
    }
    first = next(iter(modalities))
    arch = dict(
        embed_dim=shapes["layers.0.norm1.weight"][0],
        depth=len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
        num_heads=shapes[f"adapters.{first}.rpb.tables.0"][1],
        ffn_dim=shapes[f"layers.0.ffn.{first}.gate.weight"][0],
        stem=_stem(shapes),
        sub_norm=shapes.have("layers.0.attn.norm."),
        ffn_norm=shapes.have(f"layers.0.ffn.{first}.norm."),
        head_scale="layers.0.attn.head_scale" in shapes,
        post_attn_norm=shapes.have("layers.0.post_attn_norm."),
        embed_norm=shapes.have("adapters.", ".embed_norm.weight"),
        type_embed=shapes.have("adapters.", ".type_embed"),
    )
    img_size = PRETRAIN_IMG_SIZE
    if "image" in modalities:
        rows = shapes["adapters.image.rpb.tables.0"][0]
        with prefix_errors("adapters.image.rpb.tables.0"):
            img_size = PATCH_SIZE * rpb_side(rows)
            if img_size > _MAX_IMG_SIZE:
                raise CheckpointError(f"is of images of {img_size} pixels, not {_MAX_IMG_SIZE}.")
        # Fine-tuned models keep the positions of pretraining, and resample them in each forward.
        positions = math.isqrt(max(shapes["adapters.image.pos_embed"][0] - 1, 0))
        if positions != rpb_side(rows):
            modalities["image"] |= dict(img_size=PATCH_SIZE * positions, rpb_sides=rpb_side(rows))
    return dict(
        arch=arch,
        modalities=modalities,
        img_size=img_size,
        rpb="per_block" if shapes.have("adapters.", ".rpb.tables.1") else "shared",
        final_norm=shapes.have("norms."),
        layer_scale_init=LAYER_SCALE_INIT if "layers.0.gamma_1" in shapes else None,
    )


def infer_video_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The further arguments of `models.OnePeaceVideo`; a CheckpointError without its adapters."""
    shapes = _Shapes(weights)
    hidden, dim = shapes["layers.0.temporal_adapter.down.weight"]
    return dict(
        num_frames=shapes["adapters.image.temporal_embed"][1],
        temporal_adapters=2 if shapes.have("layers.0.temporal_adapter_in.") else 1,
        adapter_ratio=hidden / dim,
    )
