"""Fitting weights to a model: shared tables copied to blocks, image tables resampled, reports."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mmonepeace.checkpoint.conversion import to_model
from mmonepeace.checkpoint.errors import CheckpointError, StateDict, prefix_errors
from mmonepeace.checkpoint.key_mapping import to_own
from mmonepeace.checkpoint.reading import read
from mmonepeace.layers.resampling import (
    resample_pos_embed,
    resample_rel_pos,
    resample_rpb,
    rpb_side,
    square_side,
)


@dataclass
class LoadReport:
    """What loading did, for one table.

    Attributes:
        missing: parameters of the model that the file lacks.
        unused: keys of the file that the model lacks.
        changed: key -> what was done to it (resampled, copied).
    """

    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [
            *(("missing", key, "in the model, not in the file") for key in self.missing),
            *(("unused", key, "in the file, not in the model") for key in self.unused),
            *(("reshaped", key, what) for key, what in self.changed.items()),
        ]
        if not rows:
            return "every weight was loaded as it is."
        return key_table(("", "key", "note"), rows)


def key_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Text table of keys; rows that differ only in numbers become one, with their count."""
    from prettytable import PrettyTable

    counts = Counter(tuple(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", str(c)) for c in r) for r in rows)
    table = PrettyTable([*header, "tensors"])
    table.align = "l"
    for row, count in counts.items():
        table.add_row([*row, count])
    return table.get_string()


# Part of a parameter name -> the option of the model that decides its shape, beside `arch`.
_OPTIONS = {
    r"text\.embed_tokens": "arch or vocab_size",
    r"text\.pos_embed": "arch or num_positions",
    r"(text|audio)\.rpb\.": "arch or num_buckets",
    r"audio\.(extractor|feature_)": "arch or feature_dim",
    r"audio\.pos_conv": "arch, pos_kernel or pos_groups",
}


def adapt_state_dict(
    weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[StateDict, LoadReport]:
    """Adapt own-named weights to a model: decouple the RPB, resample tables and positions.

    Args:
        weights: own names, as `to_own` gives them.
        target: the model's state dict; only names and shapes are read.

    Returns:
        the weights under the model's names, and a report.

    Raises:
        CheckpointError: if a shape differs in a way that no resampling mends.
    """
    report = LoadReport()
    fitted = dict(weights)
    for name in target:
        # One table per block wanted, one shared table stored: copy it.
        match = re.fullmatch(r"(adapters\.\w+\.rpb\.tables\.)(\d+)", name)
        if match and name not in weights and f"{match[1]}1" not in weights:
            source = f"{match[1]}0"
            if source in weights:
                fitted[name] = weights[source].clone()
                report.changed[name] = "shared table copied to each block"
    for name in weights:
        match = re.fullmatch(r"(adapters\.\w+\.rpb\.tables\.)1", name)
        if match and f"{match[1]}0" in target and name not in target:
            raise CheckpointError(
                "the file has one relative position table per block, the model one for all "
                "blocks. Build the model with rpb='per_block'."
            )
    for name, wanted in target.items():
        value = fitted.get(name)
        if value is None:
            report.missing.append(name)
            continue
        if value.shape == wanted.shape:
            continue
        old = tuple(value.shape)
        if name.endswith("image.pos_embed") and value.shape[1:] == wanted.shape[1:]:
            side = square_side(len(wanted) - 1, "the position table of the model")
            fitted[name] = resample_pos_embed(value, (side, side))
        elif ".image.rpb.tables." in name and value.shape[1:] == wanted.shape[1:]:
            side = rpb_side(len(wanted))
            exact = resample_rpb(value.double(), rpb_side(len(value)), (side, side))
            fitted[name] = exact.to(value.dtype)
        elif ".attn.rel_pos_" in name and value.shape[1:] == wanted.shape[1:]:
            fitted[name] = resample_rel_pos(value, (len(wanted) + 1) // 2)
        else:
            option = next((o for part, o in _OPTIONS.items() if re.search(part, name)), "arch")
            raise CheckpointError(
                f"{name}: the file has shape {old}, the model {tuple(wanted.shape)}. Build the "
                f"model with the {option} of the checkpoint; mmonepeace.checkpoint.infer_config tells it."
            )
        note = f"resampled {old[0]} -> {len(wanted)} rows"
        report.changed[name] = ", ".join(filter(None, [report.changed.get(name), note]))
    report.unused = [name for name in fitted if name not in target]
    for name in report.unused:
        del fitted[name]
    return fitted, report


def load_model(model: torch.nn.Module, path: str | Path) -> LoadReport:
    """Load a whole model, such as a segmentor, strictly; its backbone may resample.

    Args:
        model: built from the config the checkpoint was trained with.
        path: see `read`; a file of the official segmentor, detector or classifier too.

    Returns:
        what was unused.

    Raises:
        CheckpointError: if the file cannot be used, lacks a parameter, or has another shape.
    """
    weights, meta = read(path)
    target = model.state_dict()
    if not target.keys() & weights.keys():
        with prefix_errors(path):
            weights = to_model(to_own(weights, meta)).weights
    copied = re.compile(r"(^|\.)adapters\.\w+\.rpb\.tables\.\d+$")
    resampled = re.compile(
        r"(^|\.)(adapters\.image\.(rpb\.tables\.\d+|pos_embed)|layers\.\d+\.attn\.rel_pos_[hw])$"
    )
    report = LoadReport(
        missing=[k for k in target if k not in weights and not copied.search(k)],
        unused=[k for k in weights if k not in target],
        changed={
            key: f"{tuple(value.shape)} in the file, {tuple(target[key].shape)} in the model"
            for key, value in weights.items()
            if key in target and value.shape != target[key].shape and not resampled.search(key)
        },
    )
    if report.missing or report.changed:
        raise CheckpointError(
            f"{path} does not fit the model of the config:\n{report}\nUse the config it was "
            "trained with (the work directory keeps a copy), with the same number of classes."
        )
    model.load_state_dict(weights, strict=False)
    return report
