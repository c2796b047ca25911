"""Heads of a config that classify the classes of the data, and how many classes they have."""

import inspect
from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from mmonepeace.checks.config import type_name, walk_paths

# Heads whose num_classes may be left to a default, and those that count something else.
_DEFAULTED = ("decode_head", "auxiliary_head", "bbox_head", "mask_head")
_OTHERS = ("rpn", "semantic", "backbone")
# Losses that are a softmax, unless they have use_sigmoid=True.
_SOFTMAX = ("CrossEntropyLoss", "OhemCrossEntropy", "LabelSmoothLoss", "SeesawLoss")


def find_heads(model: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """(path, config) of the heads of a model, and of the dicts in them."""
    for path, node in walk_paths(model, "model"):
        if "head" in path and not any(word in path for word in _OTHERS):
            yield path, node


def head_classes(model: ConfigDict) -> Iterator[tuple[str, int | None, int]]:
    """How many classes every head has that classifies the classes of the data.

    Yields:
        the path of the option that says so; its value, or the default of the head's class, or None
        without one; and how many classes the head counts in another option.
    """
    for path, head in find_heads(model):
        name = next(part for part in reversed(path.split(".")) if not part.isdigit())
        if head.get("class_agnostic"):  # a mask head with one mask for all classes
            continue
        if "num_things_classes" in head:
            stuff = head.get("num_stuff_classes", 0)
            yield f"{path}.num_things_classes", head.num_things_classes, stuff
        elif "num_classes" in head:
            yield f"{path}.num_classes", head.num_classes, 0
        elif name in _DEFAULTED and "type" in head:
            option = _classes_option(head["type"])
            if option:  # CondInst's mask head has one mask for all classes
                default = option.default if isinstance(option.default, int) else None
                yield f"{path}.num_classes", default, 0


def softmax_of_one(model: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """(path, config) of the heads whose softmax has a single value, which is 1 whatever the model says.

    Heads of detectors have a background, or a sigmoid.
    """
    for path, head in find_heads(model):
        name = next(part for part in reversed(path.split(".")) if not part.isdigit())
        if name in ("decode_head", "auxiliary_head"):
            # One class of mmseg is one whatever the loss: labels other than 0 are outside of it.
            one = head.get("num_classes") == 1 or (
                head.get("out_channels") == 1 and not _has_sigmoid(head.get("loss_decode"))
            )
        else:
            one = name == "head" and head.get("num_classes") == 1 and "type" in head
            one = one and "MultiLabel" not in type_name(head)
            one = one and not _has_sigmoid(head.get("loss"))
        if one:
            yield path, head


def _has_sigmoid(losses: Any) -> bool:
    """Whether no loss of a head, or the one, is a softmax over the classes; the default is one."""
    losses = losses if isinstance(losses, (list, tuple)) else [losses or {}]
    return all(
        loss.get("use_sigmoid", "type" in loss and type_name(loss) not in _SOFTMAX)
        for loss in losses
    )


def has_mask_head(model: ConfigDict) -> bool:
    """Whether a detector of mmdet predicts masks."""
    heads = (model, model.get("roi_head") or {})
    return any(h.get(name) for h in heads for name in ("mask_head", "panoptic_head"))


def _classes_option(kind: Any) -> inspect.Parameter | None:
    """The option `num_classes` of a class of heads; None if it has none, or is unknown."""
    with MODELS.switch_scope_and_registry(None) as registry:
        cls = registry.get(kind) if isinstance(kind, str) else kind
    for base in inspect.getmro(cls) if inspect.isclass(cls) else ():
        if parameter := inspect.signature(base).parameters.get("num_classes"):
            return parameter
    return None
