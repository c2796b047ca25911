"""Where in a config an error comes from: the innermost part that was built or run."""

import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.registry import build_from_cfg
from torch import nn

from mmonepeace.checks.config import type_name, walk_paths
from mmonepeace.datasets.broken_samples import TooManyBrokenError


def locate(cfg: Config, error: BaseException) -> str:
    """The innermost key of a config whose part was built or run when an error was raised."""
    path, loader = "", "train_dataloader"
    model: nn.Module | None = None
    names: dict[int, str] = {}
    for frame in frames_of(error):
        name, own = frame.f_code.co_name, frame.f_locals.get("self")
        if "val_loop" in name or type(own).__name__ == "ValLoop":
            loader = "val_dataloader"
        elif "test_loop" in name or type(own).__name__ == "TestLoop":
            loader = "test_dataloader"
        if frame.f_code is build_from_cfg.__code__:
            path = _find_equal(cfg, frame, path, loader) or path
        elif isinstance(own, nn.Module) and name != "__init__":
            if model is None and "_modules" in vars(own):
                model = own
                names = {id(module): key for key, module in own.named_modules()}
            if id(own) in names:
                inside = [part for part in names[id(own)].split(".") if part != "module"]
                path = _deepest(cfg, ["model", *inside])
        elif own is not None and not isinstance(own, type):
            path = _find_type(cfg, type(own).__name__, path, loader) or path
    return path


def frames_of(error: BaseException) -> list[FrameType]:
    """The calls that an error went through, outermost first, those of its cause included."""
    errors = [error]
    if isinstance(error, TooManyBrokenError) and error.__context__:
        errors.append(error.__context__)  # of the last broken sample
    return [frame for each in errors for frame, _ in traceback.walk_tb(each.__traceback__)]


def _find_equal(cfg: Config, frame: FrameType, within: str, loader: str) -> str | None:
    """Where the dict is that MMEngine is building from: the most similar one of its type."""
    built = frame.f_locals.get("cfg")
    if not isinstance(built, Mapping) or "type" not in built:
        return None
    best, most = None, -1
    for path, node in _candidates(cfg, within, loader):
        if "type" in node and type_name(node) == type_name(built):
            equal = sum(1 for key, value in node.items() if _equal(built.get(key), value))
            if equal > most:
                best, most = path, equal
    return best


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (ValueError, RuntimeError):  # arrays and tensors
        return False


def _find_type(cfg: Config, name: str, within: str, loader: str) -> str | None:
    for path, node in _candidates(cfg, within, loader):
        if "type" in node and type_name(node) == name:
            return path
    return None


def _candidates(cfg: Config, within: str, loader: str) -> Iterator[tuple[str, Any]]:
    """(path, dict) of a config: first of the part that is being built, then of a data loader."""
    nodes = list(walk_paths(cfg._cfg_dict))
    if within:
        inside = [(p, n) for p, n in nodes if p == within or p.startswith(f"{within}.")]
        if inside and not within.startswith(("model", "param_scheduler")):
            yield from inside
        elif inside:
            yield from inside
            return
    sections = (loader, "model", "optim_wrapper", "param_scheduler", "train_cfg", "val_cfg")
    for section in sections:
        yield from ((p, n) for p, n in nodes if p == section or p.startswith(f"{section}."))
    yield from nodes


def _deepest(cfg: Config, names: list[str]) -> str:
    """The longest beginning of a path that a config has."""
    node: Any = cfg._cfg_dict
    path: list[str] = []
    for name in names:
        if isinstance(node, Mapping) and name in node:
            node = node[name]
        elif isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            break
        path.append(name)
    return ".".join(path)


def node_at(cfg: Config, path: str) -> Any:
    """The part of a config at a path."""
    node: Any = cfg._cfg_dict
    for name in path.split(".") if path else ():
        node = node[int(name)] if isinstance(node, (list, tuple)) else node[name]
    return node
