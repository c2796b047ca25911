"""What a config dict takes: the class or function that it stands for, and its arguments."""

import inspect
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from mmengine import registry as root
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import LogProcessor, Runner
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader

from mmonepeace.checks.config import LOADERS
from mmonepeace.registry import SCOPE

REGISTRIES = (
    root.RUNNERS, root.STRATEGIES, root.DATA_SAMPLERS, root.MODELS, root.TASK_UTILS, root.DATASETS,
    root.TRANSFORMS, root.OPTIMIZERS, root.OPTIM_WRAPPERS, root.OPTIM_WRAPPER_CONSTRUCTORS,
    root.PARAM_SCHEDULERS, root.HOOKS, root.LOOPS, root.METRICS, root.VISUALIZERS,
    root.VISBACKENDS, root.LOG_PROCESSORS, root.EVALUATOR, root.WEIGHT_INITIALIZERS,
    root.FUNCTIONS,
)  # fmt: skip
# Dicts without a type: what their keys are arguments of.
_UNTYPED: dict[str, Callable[..., Any]] = {
    "randomness": Runner.set_randomness,
    "clip_grad": clip_grad_norm_,
    "log_processor": LogProcessor,
    **dict.fromkeys(LOADERS, DataLoader),
}


class Argument(NamedTuple):
    """An argument: its type, `inspect.Parameter.empty` where it is not known, and its default."""

    annotation: Any
    default: Any


class Signature(NamedTuple):
    """Arguments by name, and whether there are no others."""

    arguments: dict[str, Argument]
    closed: bool
    ours: bool


def find_types(kind: Any) -> Iterator[Any]:
    """Every class or function that a `type` may stand for."""
    if not isinstance(kind, str):
        if callable(kind):
            yield kind
        return
    for registry in _registries():
        try:
            found = registry.get(kind)
        except (ImportError, RuntimeError, AttributeError, ValueError):  # not in this registry
            continue
        if callable(found):  # the name of a Python module is found, too
            yield found


def _registries() -> list[Registry]:
    """The registries of the library that a recipe belongs to, or MMEngine's where it has none."""
    scope = DefaultScope.get_current_instance()
    name = scope.scope_name if scope else "mmengine"
    with root.MODELS.switch_scope_and_registry(name):  # imports the library's registries
        return [registry.children.get(name, registry) for registry in REGISTRIES]


def similar_types(kind: str) -> list[str]:
    """Registered names that are similar to one that is not, the most similar one first."""
    by_name: dict[str, str] = {}
    for registry in _registries():
        ours = registry.root.children.get(SCOPE) if registry.scope != SCOPE else None
        levels = (registry, registry.parent, ours)
        for level in reversed(levels) if kind.startswith(f"{SCOPE}.") else levels:
            if level is not None:
                level.import_from_location()
                prefix = f"{SCOPE}." if level.scope == SCOPE else ""
                for name in level.module_dict:
                    by_name.setdefault(name, prefix + name)
    near = get_close_matches(kind.rpartition(".")[2], by_name, 3, 0.6)
    return [by_name[name] for name in near]


def signature_of(node: Any, path: str = "") -> Signature:
    """What a config dict takes; `path` is where it is in the config."""
    arguments: dict[str, Argument] = {}
    key = path.rpartition(".")[2]
    kind = node.get("type") if isinstance(node, dict) else None
    found = list(find_types(kind))
    if not found and key in _UNTYPED:
        found = [_UNTYPED[key]]
    closed, ours = bool(found), bool(found)
    for each in found:
        own, is_closed = _arguments(each)
        arguments |= own
        closed &= is_closed
        ours &= (getattr(each, "__module__", "") or "").startswith("mmonepeace.")
    return Signature(arguments, closed, ours)


@cache
def _arguments(function: Any) -> tuple[dict[str, Argument], bool]:
    """Arguments of a class, those of its bases included, or of a function; whether there are no others.

    With several bases, the arguments that one does not take may be another's.
    """
    arguments: dict[str, Argument] = {}
    closed = False
    for base in inspect.getmro(function) if inspect.isclass(function) else (function,):
        if base is not function and (base is object or "__init__" not in vars(base)):
            continue
        try:
            parameters = inspect.signature(base).parameters.values()
        except (TypeError, ValueError):  # of a builtin
            continue
        hints = _hints(base)
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        # What a class passes on to its base, under its own type and default.
        if closed and not any(len(c.__bases__) > 1 for c in inspect.getmro(function)):
            break
        for p in named:
            annotation = hints.get(p.name, inspect.Parameter.empty)
            arguments.setdefault(p.name, Argument(annotation, p.default))
        closed |= all(p.kind is not p.VAR_KEYWORD for p in parameters)
    return arguments, closed


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except Exception:  # noqa: BLE001  (annotations of other libraries name what they do not import)
        return {}
