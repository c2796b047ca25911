"""Heads of a config that tell the classes of the data apart, and how many they tell apart."""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.config import ConfigDict
from mmengine.registry import MODELS

# Heads whose number of classes may be left to a default, and those that count something else.
_DEFAULTED = ("decode_head", "auxiliary_head", "bbox_head", "mask_head")
_OTHERS = ("rpn", "semantic", "backbone")


class HeadClasses(NamedTuple):
    """How many classes a head tells apart.

    Attributes:
        path: of the option that says so.
        found: its value, or the default of the head's class; None where there is neither.
        others: classes that the head counts in another option.
    """

    path: str
    found: int | None
    others: int = 0


def walk_paths(node: Any, path: str = "") -> Iterator[tuple[str, ConfigDict]]:
    """(path, dict) of every dict in a node of a config, the node included."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk_paths(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from walk_paths(value, f"{path}.{number}")


def find_heads(model: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """(path, config) of the heads of a model, and of the dicts in them."""
    for path, found in walk_paths(model, "model"):
        if "head" in path and not any(word in path for word in _OTHERS):
            yield path, found


def head_classes(model: ConfigDict) -> Iterator[HeadClasses]:
    """The number of classes of every head that tells the classes of the data apart."""
    for path, head in find_heads(model):
        name = next(part for part in reversed(path.split(".")) if not part.isdigit())
        if head.get("class_agnostic"):  # a mask head that paints every class alike
            continue
        if "num_things_classes" in head:
            stuff = head.get("num_stuff_classes", 0)
            yield HeadClasses(f"{path}.num_things_classes", head.num_things_classes, stuff)
        elif "num_classes" in head:
            yield HeadClasses(f"{path}.num_classes", head.num_classes)
        elif name in _DEFAULTED and "type" in head:
            yield HeadClasses(f"{path}.num_classes", _default_classes(head["type"]))


def _default_classes(kind: Any) -> int | None:
    """What a head takes where its config has no `num_classes`; None where it has no default."""
    with MODELS.switch_scope_and_registry(None) as registry:
        cls = registry.get(kind) if isinstance(kind, str) else kind
    for base in inspect.getmro(cls) if inspect.isclass(cls) else ():
        parameter = inspect.signature(base).parameters.get("num_classes")
        if parameter:
            return parameter.default if isinstance(parameter.default, int) else None
    return None
