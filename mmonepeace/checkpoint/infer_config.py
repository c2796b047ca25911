"""The model that weights belong to, read off their names and shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmonepeace.checkpoint.errors import CheckpointError, prefix_errors
from mmonepeace.layers.resampling import rpb_side
from mmonepeace.spec import LAYER_SCALE_INIT, PATCH_SIZE, PRETRAIN_IMG_SIZE


class _Shapes:
    """Own names and shapes, with an error that names what is missing."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def __call__(self, name: str) -> torch.Size:
        if name not in self.weights:
            raise CheckpointError(
                f"{name} is missing from the weights, so the model they belong to cannot be told. "
                "Is this a part of a checkpoint?"
            )
        return self.weights[name].shape

    def have(self, start: str, end: str = "") -> bool:
        return any(name.startswith(start) and name.endswith(end) for name in self.weights)

    def count(self, start: str) -> int:
        """Number of entries of a list."""
        return len(
            {n.removeprefix(start).split(".")[0] for n in self.weights if n.startswith(start)}
        )


def _num_buckets(shapes: _Shapes, modality: str) -> int:
    return shapes(f"adapters.{modality}.rpb.tables.0")[0] // 2 - 1


def _text(shapes: _Shapes, _meta: Mapping[str, Any]) -> dict[str, Any]:
    return dict(
        vocab_size=shapes("adapters.text.embed_tokens.weight")[0],
        num_positions=shapes("adapters.text.pos_embed")[0],
        num_buckets=_num_buckets(shapes, "text"),
    )


def _image(_shapes: _Shapes, _meta: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _audio(shapes: _Shapes, meta: Mapping[str, Any]) -> dict[str, Any]:
    dim, group_dim, kernel = shapes("adapters.audio.pos_conv.1.weight")
    pre_norm = shapes.have("adapters.audio.pos_conv.0.")
    return dict(
        feature_dim=shapes("adapters.audio.extractor.0.conv.weight")[0],
        num_buckets=_num_buckets(shapes, "audio"),
        pos_depth=shapes.count("adapters.audio.pos_conv.") - pre_norm,
        pos_kernel=kernel,
        pos_groups=dim // group_dim,
        pos_pre_norm=pre_norm,
        padding=meta.get("audio_padding", "masked"),
    )


# In the order in which modalities stand in a joint sequence.
_OPTIONS = {"text": _text, "image": _image, "audio": _audio}


def infer_config(
    weights: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the arguments of the model off its weights, so that no configuration is needed.

    Args:
        weights: own names, as `to_own` gives them; only names and shapes are read.
        meta: metadata of the file.

    Returns:
        keyword arguments of `models.OnePeace`: arch, modalities, img_size, rpb, final_norm and
        layer_scale_init.

    Raises:
        CheckpointError: if a parameter that tells an argument is missing.
    """
    shapes = _Shapes(weights)
    present = [name for name in _OPTIONS if shapes.have(f"adapters.{name}.")]
    if not present:
        raise CheckpointError(
            "the weights have no adapter, so they belong to no ONE-PEACE encoder."
        )
    first = present[0]
    table = shapes(f"adapters.{first}.rpb.tables.0")
    arch = dict(
        embed_dim=shapes("layers.0.norm1.weight")[0],
        depth=shapes.count("layers."),
        num_heads=table[1],
        ffn_dim=shapes(f"layers.0.ffn.{first}.gate.weight")[0],
        stem="conv" if shapes.have("adapters.image.stem.weight") else "hmlp",
        sub_norm=shapes.have("layers.0.attn.norm."),
        ffn_norm=shapes.have(f"layers.0.ffn.{first}.norm."),
        head_scale=shapes.have("layers.0.attn.head_scale"),
        post_attn_norm=shapes.have("layers.0.post_attn_norm."),
        embed_norm=shapes.have("adapters.", ".embed_norm.weight"),
        type_embed=shapes.have("adapters.", ".type_embed"),
    )
    img_size = PRETRAIN_IMG_SIZE
    if "image" in present:
        rows = shapes("adapters.image.rpb.tables.0")[0]
        with prefix_errors("adapters.image.rpb.tables.0"):
            img_size = PATCH_SIZE * rpb_side(rows)
    return dict(
        arch=arch,
        modalities={name: _OPTIONS[name](shapes, meta or {}) for name in present},
        img_size=img_size,
        rpb="per_block" if shapes.have("adapters.", ".rpb.tables.1") else "shared",
        final_norm=shapes.have("norms."),
        layer_scale_init=LAYER_SCALE_INIT if shapes.have("layers.0.gamma_1") else None,
    )
