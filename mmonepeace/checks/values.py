"""Values of a config that no run can use: of a wrong type, out of range, not numbers; unknown names.

What is checked follows from the arguments of the class that a dict names, and from the names of
numbers, which mean the same in all libraries. Nothing is built.
"""

import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmonepeace.checks.config import SECTIONS
from mmonepeace.checks.limits import CHOICES, EPOCHS, FLAGS, LENGTHS, LIMITS, ORDERED, Limits
from mmonepeace.checks.report import CheckError
from mmonepeace.checks.signatures import Argument, find_types, signature_of, similar_types
from mmonepeace.checks.structure import shorten

_NAMED = 8  # problems that are printed
# Arguments that MMEngine or mmcv take off before they build.
_TAKEN = {
    "type", "_scope_", "priority", "requires_grad", "init_cfg", "train_cfg", "test_cfg",
    "constructor", "paramwise_cfg", "convert_to_iter_based", "by_epoch", "dataset", "sampler",
    "batch_sampler", "num_batch_per_epoch", "in_index",
}  # fmt: skip
# Types whose names are too short to be similar to anything.
_LAYERS = {"norm_cfg": ["BN", "SyncBN", "GN", "LN"], "act_cfg": ["ReLU", "GELU"]}
# Dicts whose types are looked up elsewhere, or that others add arguments to.
_FOREIGN = ("nms", "nms_cfg", "roi_layer", "dcn", "policies")
_NUMBERS = (int, float)
_NEVER_DICTS = ("begin", "end", "start_factor", "max_norm", "embed_dim", "depth", "lr", "interval")
_BOOLEANS = ("true", "false", "yes", "no", "none")


def check_values(cfg: Config, unused: Collection[str] = ()) -> None:
    """Check names and values of a config, before anything is built or read.

    Args:
        cfg: the config.
        unused: top-level keys that a tool does not read.

    Raises:
        CheckError: a line for each fault: the key, its value, what is expected, and what to do.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    nodes = {key: cfg._cfg_dict[key] for key in SECTIONS if key in cfg and key not in unused}
    by_key: dict[str, str] = {}  # the first problem of each
    for problem in (*_work_dir(cfg), *_walk(nodes, "")):
        by_key.setdefault(problem.partition(" is ")[0], problem)
    problems = list(by_key.values())
    if problems:
        more = len(problems) - _NAMED
        lines = [*problems[:_NAMED], *([f"... and {more} more"] if more > 0 else [])]
        raise CheckError("\n".join(lines))


def _work_dir(cfg: Config) -> Iterator[str]:
    folder = cfg.get("work_dir")
    if isinstance(folder, str) and Path(folder).exists() and not Path(folder).is_dir():
        yield f"work_dir is {folder!r}, which is a file; expected a folder. Name another: --work-dir DIR"


def _walk(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        if f"{node.get('type')}".startswith("Albu"):  # its transforms are of another library
            return
        yield from _check_dict(node, path)
        for key, value in node.items():
            yield from _walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _walk(value, f"{path}.{index}")
    elif isinstance(node, float) and math.isnan(node):
        yield f"{path} is nan; expected a number."


def _check_dict(node: Mapping[str, Any], path: str) -> Iterator[str]:
    kind, names = node.get("type"), path.split(".")
    foreign = any(name in _FOREIGN for name in names[-2:])
    for key in ("type", "constructor"):
        name = node.get(key)
        if isinstance(name, str) and not foreign and not any(find_types(name)):
            near = [] if name.islower() else similar_types(name)  # "conv" is not a class
            if names[-1] in _LAYERS:
                near = _LAYERS[names[-1]]
            if near:
                guess = " or ".join(map(repr, near))
                yield f"{path}.{key} is {name!r}, and there is no such type. Did you mean {guess}?"
            if key == "type":
                return
    signature = signature_of(node, path)
    wrong = set()
    for name, value in node.items():
        where = f"{path}.{name}" if path else str(name)
        argument = signature.arguments.get(name)
        if argument is None and signature.closed and name not in _TAKEN and not foreign:
            near = get_close_matches(str(name), signature.arguments, 3, 0.5)
            known = ", ".join(sorted(set(signature.arguments) - {"self", "runner", "dataloader"}))
            guess = f"Did you mean {' or '.join(near)}?" if near else f"It takes {known or 'none'}."
            owner = kind if isinstance(kind, str) else getattr(kind, "__name__", names[-1])
            yield f"{where} is {shorten(value)}, but {owner} has no {str(name)!r}. {guess}"
            continue
        problem = _mismatch(value, argument, signature.ours) if argument else None
        limits = EPOCHS if node.get("convert_to_iter_based") and name in EPOCHS else LIMITS
        problem = problem or _out_of_limits(name, value, argument, limits.get(name))
        if problem:
            wrong.add(name)
            yield f"{where} is {shorten(value)}; expected {problem}."
    for low, high in ORDERED:
        small, large = node.get(low), node.get(high)
        if (
            not wrong
            and isinstance(small, _NUMBERS)
            and isinstance(large, _NUMBERS)
            and small > large
        ):
            yield f"{path}.{low} is {small}; expected at most {high}, which is {large}."


def _out_of_limits(
    name: str, value: Any, argument: Argument | None, limits: Limits | None
) -> str | None:
    """What is expected instead of a value, from the name of its argument."""
    if name in CHOICES and value is not None and value not in CHOICES[name]:
        near = get_close_matches(f"{value}".upper(), CHOICES[name], 1, 0.5)
        return f"one of {', '.join(CHOICES[name])}" + (f": {near[0]}?" if near else "")
    if name in FLAGS and value is not None and not isinstance(value, bool):
        return "True or False"
    if limits is None or (name == "class_weight" and isinstance(value, str)):  # the path of a file
        return None
    if value is None:
        return limits.expected if argument is None or _is_for_numbers(argument) else None
    if isinstance(value, (list, tuple)):
        numbers, lengths = list(value), LENGTHS.get(name, ())
        if lengths and len(numbers) not in lengths:
            return f"{' or '.join(map(str, lengths))} values"
        if not numbers:
            return f"{limits.expected}, one or more of them"
    else:
        numbers = [value]
    for number in numbers:
        if isinstance(number, Mapping) and name in _NEVER_DICTS:
            return limits.expected
        if isinstance(number, (bool, str)):
            quoted = ", without quotes" if _is_number(f"{number}") else ""
            return f"{limits.expected}{quoted}"
        if isinstance(number, _NUMBERS) and not limits.allows(number):
            return limits.expected + (" in each place" if number is not value else "")
    return None


def _is_for_numbers(argument: Argument) -> bool:
    """Whether an argument takes a number and nothing else, as far as it says."""
    annotation, default = argument
    if annotation is inspect.Parameter.empty:
        return isinstance(default, (int, float)) and not isinstance(default, bool)
    return annotation in (int, float) and default is not None


def _is_number(text: str) -> bool:
    try:
        float(text.strip("'\" "))
    except ValueError:
        return False
    return True


def _mismatch(value: Any, argument: Argument, strict: bool) -> str | None:
    """What is expected instead of a value, from the annotation or the default of its argument."""
    annotation, default = argument
    if annotation is not inspect.Parameter.empty:
        if value is None and default is None:  # an Optional that is not written as one
            return None
        return None if _fits(value, annotation, strict) else _describe(annotation)
    if isinstance(default, bool):
        is_word = isinstance(value, str) and value.lower() in _BOOLEANS
        return "True or False, without quotes" if is_word else None
    if isinstance(default, _NUMBERS) and isinstance(value, (str, bool)):
        return "a number, without quotes" if strict or _is_number(f"{value}") else "a number"
    if isinstance(default, (list, tuple)) and default and isinstance(value, (str, bool)):
        return "a list"
    return None


def _fits(value: Any, annotation: Any, strict: bool) -> bool:
    """Whether a value may be of a type; where that is not certain, it may.

    Args:
        value: of a config.
        annotation: as in Python, resolved.
        strict: for annotations that are known to be right. Those of other libraries are often
            narrower than what they take: only numbers, strings and booleans are told apart.
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any or isinstance(annotation, str):
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, each, strict) for each in inner)
    if origin is Literal:
        return value in inner
    if annotation in (None, NoneType):
        return value is None
    if annotation is bool:
        return isinstance(value, bool) or value in (0, 1) or (not strict and value == "qv_bias")
    if annotation in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return not strict and not isinstance(value, (str, bool, NoneType))
        return annotation is float or not strict or (math.isfinite(value) and value == int(value))
    if annotation is str:
        return isinstance(value, str) or not strict
    is_plain = isinstance(value, (str, int, float, bool))
    container = origin or annotation
    if not inspect.isclass(container):
        return True
    if issubclass(container, Mapping):
        return isinstance(value, Mapping) if strict else not is_plain
    if issubclass(container, Sequence):
        if is_plain or value is None:
            return not strict and not isinstance(value, str)
        if not isinstance(value, (list, tuple)):
            return not strict
        if container is tuple and inner and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                return not strict
            return all(_fits(v, t, strict) for v, t in zip(value, inner, strict=True))
        element = inner[0] if inner else Any
        return all(_fits(v, element, strict) for v in value) or not strict
    return True


def _describe(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_describe, inner)))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    words = {
        None: "None", NoneType: "None", int: "an integer", float: "a number", str: "a string",
        bool: "True or False",
    }  # fmt: skip
    if annotation in words:
        return words[annotation]
    container = origin or annotation
    if inspect.isclass(container) and issubclass(container, Mapping):
        return "a dict"
    if inspect.isclass(container) and issubclass(container, Sequence):
        if container is tuple and inner and inner[-1] is not Ellipsis:
            return f"{len(inner)} values, each {_describe(inner[0])}"
        return "a list" + (f", each {_describe(inner[0])}" if inner else "")
    return getattr(annotation, "__name__", str(annotation))
