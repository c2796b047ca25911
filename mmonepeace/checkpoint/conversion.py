"""Conversion of files: from the official layouts to ours, and back."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from mmonepeace.checkpoint.errors import CheckpointError, StateDict, prefix_errors
from mmonepeace.checkpoint.key_mapping import Conversion, official_name, select_vision, to_own
from mmonepeace.checkpoint.lora import has_lora, merged, read_lora, write_lora
from mmonepeace.checkpoint.reading import read
from mmonepeace.checkpoint.writing import Progress, write
from mmonepeace.choices import Target
from mmonepeace.layers.relative_position_bias import rpb_index, rpb_index_1d
from mmonepeace.layers.resampling import rpb_side
from mmonepeace.spec import MAX_POSITIONS


def _adapter_buffers(weights: StateDict, adapters: str) -> StateDict:
    """Buffers of the official adapters, from the sizes of our tables and positions."""
    buffers = {}
    for modality in ("text", "audio"):
        if (table := weights.get(f"{adapters}.{modality}.rpb.tables.0")) is not None:
            index = rpb_index_1d(len(table) // 2 - 1, MAX_POSITIONS)
            buffers[f"{modality}_adapter.rp_bucket"] = index.long()
    if (table := weights.get(f"{adapters}.image.rpb.tables.0")) is not None:
        side = rpb_side(len(table))
        buffers["image_adapter.rp_bucket"] = rpb_index((side, side)).long()
    if (positions := weights.get(f"{adapters}.image.pos_embed")) is not None:
        buffers["image_adapter.position_idx"] = torch.arange(len(positions))
    return buffers


def _official(key: str) -> str:
    name = official_name(key)
    if name is None:
        raise CheckpointError(f"{key} has no official name: the official model has no such part.")
    return name


# Layout of an official file -> prefix of its backbone's names.
_PREFIXES = {
    "segmentation": "backbone.",
    "detection": "backbone.net.",
    "classification": "",
    "video": "backbone.",
}
# Prefix of a head -> official layout, for models that do not come from an official file.
_TASKS = {
    "decode_head.": "segmentation",
    "rpn_head.": "detection",
    "head.fc.": "classification",
    "head.fc_cls.": "video",
    "head.classifier.": "full",
    "projections.": "full",
}
_BACKBONE = ("adapters.", "layers.", "norms.", "vit_adapter.")


def to_official_vision(converted: Conversion) -> Conversion:
    """Our vision branch in the official layout it came from; for a full one, in the exported."""
    return _to_layout(converted, converted.meta["official_layout"].replace("full", "vision"))


def to_official_model(converted: Conversion) -> Conversion:
    """A segmentor, detector, classifier of images or videos, or retriever in the layout of the official files.

    Raises:
        CheckpointError: if it has no heads, or parts that the official models do not have.
    """
    layout = _task(converted)
    if layout == "full":
        return to_official_full(converted)
    of_layout = {"video": "encoder.image_layer_norm"}.get(layout, "fc_norm")
    norm = converted.meta.get("official_norm", of_layout)
    return _to_layout(converted, layout, _PREFIXES[layout], norm)


def _to_layout(
    converted: Conversion, layout: str, prefix: str = "", norm: str = "encoder.image_layer_norm"
) -> Conversion:
    """Weights in an official layout; `prefix` and `norm` are names of the backbone and its norm."""
    result = Conversion({}, {"official_layout": layout})
    tables = sum(key.startswith("adapters.image.rpb.tables.") for key in converted.weights)
    # Where each block has its own, it is the block's.
    in_blocks = layout == "segmentation" or (layout == "video" and tables > 1)
    for key, value in converted.weights.items():
        name = _official(key)
        if key.startswith("adapters.image.rpb.tables.") and layout != "vision":
            block = f"encoder.layers.{key.rsplit('.', 1)[1]}"
            owner = block if in_blocks else "image_adapter"
            name = f"{prefix}{owner}.rel_pos_table.weight"
        elif key.startswith(_BACKBONE):
            name = name.replace("encoder_wrapper.fusion_model.", "encoder.")
            name = name.removeprefix("encoder_wrapper.").replace("encoder.image_layer_norm", norm)
            name = f"{prefix}{name}"
        elif key.startswith("neck."):  # in the official detector's backbone, but not in its net
            name = f"backbone.{name}"
        result.add(key, name, value)
    buffers = _adapter_buffers(converted.weights, "adapters")
    if layout == "video":
        del buffers["image_adapter.position_idx"]
    if in_blocks:
        index = buffers["image_adapter.rp_bucket"]
        buffers = {f"encoder.layers.{i}.rp_bucket": index for i in range(tables)}
    elif layout == "detection":
        buffers = {}
    for name, value in buffers.items():
        result.add("(computed)", f"{prefix}{name}", value)
    return result


def to_model(converted: Conversion) -> Conversion:
    """The names of a model of an MM library or of ours: those of its backbone have a prefix.

    Raises:
        CheckpointError: if the file has no heads.
    """
    _task(converted)
    result = Conversion({}, dict(converted.meta))
    for key, value in converted.weights.items():
        result.add(key, f"backbone.{key}" if key.startswith(_BACKBONE) else key, value)
    result.rows += [row for row in converted.rows if row[1] is None]
    return result


def _task(converted: Conversion) -> str:
    """Official layout of a model with heads."""
    for start, layout in _TASKS.items():
        if any(key.startswith(start) for key in converted.weights):
            return layout
    raise CheckpointError(
        "it has no heads of a segmentor, detector, classifier or retriever. Use --to full or "
        "--to vision for an encoder without a head."
    )


def to_official_full(converted: Conversion) -> Conversion:
    """Our weights of all modalities in the layout of the official full model, with its buffers."""
    weights, meta = converted.weights, converted.meta
    result = Conversion({}, {"official_layout": "full"})
    # What no weight says: the configuration of an official file, the facts of a model of ours.
    if "task" in meta:
        others = ("official_", "format")
        result.meta |= {key: x for key, x in meta.items() if not key.startswith(others)}
    if "official_cfg" in meta:
        result.meta["official_cfg"] = meta["official_cfg"]
    nested = "adapters.audio.pos_conv.0.weight" in weights
    for key, value in weights.items():
        name = _official(key)
        if nested and key.startswith("adapters.audio.pos_conv.") and ".pos_conv.0." not in key:
            name = name.replace("embed_positions.", "embed_positions.1.")
        result.add(key, name, value)
    buffers: StateDict = {}
    for wrapper, body in (("encoder_wrapper", ""), ("decoder_wrapper", "decoder.")):
        if any(key.startswith(f"{body}layers.") for key in weights):
            for name, value in _adapter_buffers(weights, f"{body}adapters").items():
                buffers[f"{wrapper}.{name}"] = value
            buffers[f"{wrapper}.fusion_model.version"] = torch.tensor([3.0])
    try:
        json.loads(meta.get("official_cfg", "null"))
        if "official_buffers" in meta:  # those of the file that was converted
            dtypes = {k: getattr(torch, v) for k, v in json.loads(meta["official_buffers"]).items()}
            buffers = {k: v.to(dtypes[k]) for k, v in buffers.items() if k in dtypes}
    except (ValueError, AttributeError, TypeError):
        raise CheckpointError("official_cfg or official_buffers of it is damaged.") from None
    for name, value in buffers.items():
        result.add("(computed)", name, value)
    return result


def read_own(path: str | Path, lora: str | Path | None = None) -> Conversion:
    """Read a checkpoint of any layout under our names: `read`, then `to_own`.

    LoRA is merged: that of the checkpoint, and that of a folder, see `read_lora`, which also has the
    heads that were trained with it.
    """
    weights, meta = read(path)
    with prefix_errors(path):
        if has_lora(weights):
            weights = merged(weights, meta)
        converted = to_own(weights, meta)
    if lora is not None:
        with prefix_errors(f"{lora} on {path}"):
            read_lora(lora).merge_into(converted.weights)
    return converted


_CONVERSIONS: dict[str, Callable[[Conversion], Conversion]] = {
    "vision": select_vision,
    "official-vision": lambda converted: to_official_vision(select_vision(converted)),
    "full": lambda converted: converted,
    "official-full": to_official_full,
    "model": to_model,
    "official-model": to_official_model,
}


def convert_file(
    source: str | Path,
    out: str | Path | None,
    target: Target,
    shard_size: int | None = None,
    progress: Progress | None = None,
    lora: str | Path | None = None,
) -> Conversion:
    """Convert a checkpoint file, with one tensor in memory at a time.

    Args:
        source: any file that `read` takes.
        out: file to `write`, for an adapter a folder; None converts without writing.
        target: "full", all modalities and heads under our names; "vision", our vision branch;
            "model", a segmentor, detector or classifier as the MM libraries load it;
            "official-full", "official-vision" and "official-model", the official layouts; "adapter",
            its LoRA alone, see `write_lora`. All others have it merged.
        shard_size: in bytes, see `write`.
        progress: see `write`.
        lora: folder of an adapter that is merged, see `read_own`.

    Raises:
        CheckpointError: if the source cannot be used or the output cannot be written.
    """
    if target == "adapter":
        return write_lora(source, out)
    converted = read_own(source, lora)
    with prefix_errors(source):
        converted = _CONVERSIONS[target](converted)
    if out is not None:
        write(out, converted, shard_size, progress)
    return converted
