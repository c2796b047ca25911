"""Weights into a model: shared RPB tables copied to each block, tables resized, a report.

RPB is relative position bias.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmonepeace.checkpoint.conversion import read_own, to_model
from mmonepeace.checkpoint.errors import CheckpointError, StateDict, prefix_errors
from mmonepeace.checkpoint.integrity import refuse_non_finite
from mmonepeace.checkpoint.key_mapping import RECOMPUTED, Conversion, to_own
from mmonepeace.checkpoint.lora import base_name, has_lora, merged
from mmonepeace.checkpoint.reading import read
from mmonepeace.console import table
from mmonepeace.layers import resampling


def _resize_pos_embed(table: Tensor, rows: int) -> Tensor:
    side = resampling.square_side(rows - 1, "the position table of the model")
    return resampling.resample_pos_embed(table, (side, side))


def _resize_rpb(table: Tensor, rows: int) -> Tensor:
    side = resampling.rpb_side(rows)
    resized = resampling.resample_rpb(table.double(), resampling.rpb_side(len(table)), (side, side))
    return resized.to(table.dtype)


# Parameters whose rows follow the grid of patches, or frames -> how one is resized to a number of rows.
_RESIZE: dict[str, Callable[[Tensor, int], Tensor]] = {
    r"\badapters\.image\.pos_embed$": _resize_pos_embed,
    r"\badapters\.image\.rpb\.tables\.\d+$": _resize_rpb,
    r"\blayers\.\d+\.attn\.rel_pos_[hw]$": lambda table, rows: resampling.resample_rel_pos(
        table, (rows + 1) // 2
    ),
    r"\badapters\.image\.temporal_embed$": resampling.resample_time,
}
_RPB_TABLE = re.compile(r"(.*\badapters\.\w+\.rpb\.tables\.)\d+")

# Part of a parameter's name -> the option of the model that its shape depends on.
_OPTIONS = {
    r"text\.embed_tokens": "arch or vocab_size",
    r"text\.pos_embed": "arch or num_positions",
    r"(text|audio)\.rpb\.": "arch or num_buckets",
    r"audio\.(extractor|feature_)": "arch or feature_dim",
    r"\.(temporal|spatial|ffn)_adapter": "arch or adapter_ratio",
    r"audio\.pos_conv": "arch, pos_kernel or pos_groups",
    r"\badapters\.": "arch or modalities",
    r"\b(\w+_)?head\.": "num_classes or another option of the head",
    "": "arch",
}

# Key of a state dict's metadata: its weights have been adapted, see `adapt_on_load`.
_ADAPTED = "mmonepeace_adapted"


@dataclass
class LoadReport:
    """What loading did; printed as a table."""

    missing: list[str] = field(default_factory=list)  # parameters of the model the file lacks
    unused: list[str] = field(default_factory=list)  # keys of the file that the model lacks
    changed: dict[str, str] = field(default_factory=dict)  # key -> resampled, copied
    mismatched: dict[str, str] = field(default_factory=dict)  # key -> shapes; option that decides

    def __str__(self) -> str:
        rows = [
            *(("missing", key, "in the model, not in the file") for key in self.missing),
            *(("unused", key, "in the file, not in the model") for key in self.unused),
            *(("reshaped", key, what) for key, what in self.changed.items()),
            *(("mismatched", key, what) for key, what in self.mismatched.items()),
        ]
        if not rows:
            return "every weight was loaded as it is."
        return key_table(("", "key", "note"), rows)


def key_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Text table of keys; rows that differ only in numbers become one, with their count."""
    counts = Counter(tuple(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", str(c)) for c in r) for r in rows)
    return table([*header, "tensors"], ([*row, count] for row, count in counts.items()))


def adapt_state_dict(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[StateDict, LoadReport]:
    """Adapt weights to a model: copy shared RPB tables to blocks, resample positions and tables.

    Args:
        weights: own names, as `to_own` gives them.
        target: the model's state dict; only names and shapes are read.

    Raises:
        CheckpointError: if a shape differs in a way that no resampling fixes.
    """
    report = LoadReport()
    adapted = dict(weights)
    stored = _count_rpb_tables(weights)
    for tables, wanted in _count_rpb_tables(target).items():
        if stored[tables] > wanted == 1:
            raise CheckpointError(
                "the file has one relative position table per block, the model one for all "
                "blocks. Build the model with rpb='per_block'."
            )
        if stored[tables] == 1 and (shared := weights.get(f"{tables}0")) is not None:
            for name in (f"{tables}{block}" for block in range(1, wanted)):
                adapted[name] = shared.clone()  # each block trains its own
                report.changed[name] = "shared table copied to each block"
    report.missing = [name for name in target if name not in adapted]
    report.unused = [name for name in adapted if name not in target]
    for name, parameter in target.items():
        value = adapted.get(name, parameter)
        if value.is_floating_point() != parameter.is_floating_point():
            report.mismatched[name] = f"{value.dtype} in the file, {parameter.dtype} in the model"
            continue
        if value.shape == parameter.shape:
            continue
        resize = next((f for pattern, f in _RESIZE.items() if re.search(pattern, name)), None)
        same = [shape[:-2] + shape[-1:] for shape in (value.shape, parameter.shape)]
        if resize and same[0] == same[1] and value.ndim == parameter.ndim:
            rows, wanted = value.shape[-2], parameter.shape[-2]
            with prefix_errors(name):
                adapted[name] = resize(value, wanted)
            note = f"resampled {rows} -> {wanted} rows"
            report.changed[name] = ", ".join(filter(None, [report.changed.get(name), note]))
        else:
            option = next(o for pattern, o in _OPTIONS.items() if re.search(pattern, name))
            shapes = f"{tuple(value.shape)} in the file, {tuple(parameter.shape)} in the model"
            report.mismatched[name] = f"{shapes}: {option}"
    if report.mismatched:
        raise CheckpointError(
            f"the weights do not fit the model:\n{report}\nBuild the model with the options of the "
            "checkpoint: its config has them all, and mmonepeace.checkpoint.infer_config reads "
            "those of the encoder off its weights."
        )
    return {name: value for name, value in adapted.items() if name in target}, report


def _count_rpb_tables(names: Iterable[str]) -> Counter[str]:
    """Name without the number of the block -> number of tables."""
    return Counter(match[1] for name in names if (match := _RPB_TABLE.fullmatch(name)))


def adapt_on_load(
    module: nn.Module, state_dict: StateDict, prefix: str, local_metadata: dict[str, Any], *_: Any
) -> None:
    """Pre-hook of a backbone's `load_state_dict`: every way of loading resamples and decouples.

    All other parameters are left to torch, which reports those that do not fit.
    """
    if local_metadata.get(_ADAPTED):
        return

    def adaptable(state: Mapping[str, Tensor]) -> StateDict:
        patterns = (_RPB_TABLE.pattern, *_RESIZE)
        return {k: v for k, v in state.items() if any(re.search(p, k) for p in patterns)}

    own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    adapted, report = adapt_state_dict(adaptable(own), adaptable(module.state_dict()))
    state_dict.update({f"{prefix}{key}": adapted[key] for key in report.changed})


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    allow_missing: Sequence[str] = (),
    converted: Conversion | None = None,
) -> LoadReport:
    """Load a checkpoint of any official or own layout into a backbone or a model around it.

    Args:
        model: `OnePeace`, or a model that has one as `backbone`. On the meta device it gets the
            tensors of the file, in their dtype.
        path: see `read`.
        allow_missing: regular expressions that match the start of the names, less `backbone.`, of
            parameters that the file may lack.
        converted: what `read_own` gave for the path, if it has been read.

    Raises:
        CheckpointError: if the file cannot be used, lacks another parameter, or one does not fit or
            has NaN or infinite numbers.
    """
    return _load(model, path, converted or read_own(path), "backbone.", allow_missing)


def load_model(model: nn.Module, path: str | Path, lora: str | Path | None = None) -> LoadReport:
    """Load a complete model, such as a segmentor, strictly; its backbone may resample.

    The file may be one of the official segmentor, detector or classifier too. LoRA is merged into a
    model without it; a model with LoRA takes it, or has none after a file without.

    Args:
        model: the model.
        path: see `read`.
        lora: folder of an adapter on the weights of the file, see `read_own`.

    Raises:
        CheckpointError: if the file cannot be used, lacks a parameter, or has one of another shape
            or with NaN or infinite numbers.
    """
    names = model.state_dict().keys()
    if lora is not None:
        return _load(model, path, to_model(read_own(path, lora)))
    weights, meta = read(path)
    with prefix_errors(path):
        if has_lora(weights) and not has_lora(names):
            weights = merged(weights, meta)
        converted = Conversion({base_name(key): value for key, value in weights.items()}, meta)
        if not {base_name(name) for name in names} & converted.weights.keys():
            converted = to_model(to_own(weights, meta))
    return _load(model, path, converted)


def _load(
    model: nn.Module,
    path: str | Path,
    converted: Conversion,
    prefix: str = "",
    allow_missing: Sequence[str] = (),
) -> LoadReport:
    """Load weights, whose names are those of the model without `prefix`."""
    parameters = model.state_dict()
    names = {base_name(name).removeprefix(prefix): name for name in parameters}
    target = {key: parameters[name] for key, name in names.items()}
    with prefix_errors(path):
        weights, report = adapt_state_dict(converted.weights, target)
    report.unused += [key for key, name, why in converted.rows if not name and why != RECOMPUTED]
    if not has_lora(converted.weights):  # the model begins or goes on as the base
        weights |= {
            k: torch.zeros_like(x) for k, x in target.items() if has_lora([k]) and ".lora_B." in k
        }
        report.missing = [key for key in report.missing if not has_lora([key])]
    lacking = [k for k in report.missing if not any(re.match(a, k) for a in allow_missing)]
    if lacking:
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__}:\n{report}\n{len(lacking)} parameters of "
            "the model are not in the file. Build the model with the config of the checkpoint (its "
            "work directory has a copy), or list what may be missing in allow_missing."
        )
    with prefix_errors(path):
        refuse_non_finite(weights)
    state: Any = OrderedDict((names[key], value) for key, value in weights.items())
    state._metadata = {name: {_ADAPTED: True} for name, _ in model.named_modules()}
    # A model without storage takes the tensors of the file as they are.
    model.load_state_dict(state, strict=False, assign=any(v.is_meta for v in target.values()))
    backbone: Any = getattr(model, "backbone", model)
    if hasattr(backbone, "adopt_metadata"):
        with prefix_errors(path):
            backbone.adopt_metadata(converted.meta)
    return report
