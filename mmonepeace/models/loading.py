"""Weights of models: initial ones, and those of a checkpoint."""

import re
from collections.abc import Sequence

from torch import Tensor, nn

from mmonepeace import checkpoint


def reset_weight(parameter: Tensor, std: float) -> None:
    """EpochIndex from the official initial distribution, a normal that is cut at one sigma.

    Args:
        parameter: changed in place.
        std: sigma before the cut; 0.54 of it is left.
    """
    nn.init.trunc_normal_(parameter, std=std, a=-std, b=std)


def load_checkpoint(
    model: nn.Module, path: str, allow_missing: Sequence[str] = ()
) -> checkpoint.LoadReport:
    """Load a checkpoint of any official or own layout into the backbone or a model around it.

    Args:
        model: `OnePeace`, or a model that keeps one as `backbone`. On the meta device it gets
            the tensors of the file, in their dtype.
        path: see `mmonepeace.checkpoint.read`.
        allow_missing: beginnings of parameter names, as patterns, that the file may lack.

    Returns:
        what was missing, unused and resampled.

    Raises:
        mmonepeace.checkpoint.CheckpointError: if the file cannot be used, or lacks a parameter
            that is not allowed to be missing.
    """
    converted = checkpoint.read_own(path)
    names = {name.removeprefix("backbone."): name for name in model.state_dict()}
    target = dict(zip(names, model.state_dict().values(), strict=True))
    weights, report = checkpoint.adapt_state_dict(converted.weights, target)
    report.unused += [
        key for key, name, why in converted.rows if not name and why != checkpoint.RECOMPUTED
    ]
    lacking = [k for k in report.missing if not any(re.match(a, k) for a in allow_missing)]
    if lacking:
        raise checkpoint.CheckpointError(
            f"{path} does not fit {type(model).__name__}:\n{report}\n{len(lacking)} parameters of "
            "the model are not in the file. Match arch and modalities to the checkpoint, or name "
            "what may be missing in allow_missing."
        )
    # A model without storage takes the tensors of the file as they are.
    assign = any(value.is_meta for value in target.values())
    named = {names[own]: value for own, value in weights.items()}
    model.load_state_dict(named, strict=False, assign=assign)
    getattr(model, "backbone", model).adopt_metadata(converted.meta)
    return report
