"""The shape of a config: which of its keys are dicts, which of these have a type, which are lists.

Everything that reads a config relies on it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmonepeace.checks.config import LOADERS, SECTIONS
from mmonepeace.checks.report import CheckError

# Keys with one part, a dict, or None; those of the first group have a type.
_TYPED = {"model", "backbone", "dataset", "optimizer"}
_PARTS = {
    *_TYPED, *LOADERS, "neck", "sampler", "batch_sampler", "data_preprocessor", "tokenize",
    "metainfo", "optim_wrapper", "clip_grad", "paramwise_cfg", "train_cfg", "val_cfg", "test_cfg",
    "default_hooks", "env_cfg", "mp_cfg", "dist_cfg", "log_processor", "randomness",
    "auto_scale_lr", "visualizer", "strategy", "tta_model", "decode_head", "roi_head", "rpn_head",
}  # fmt: skip
# Keys with a list of parts that have a type; those of the second group also take a single one.
_LISTS = {"custom_hooks", "pipeline", "vis_backends", "tta_pipeline"}
_LISTS_OR_ONE = {"param_scheduler", "val_evaluator", "test_evaluator"}
# Of which a detector of mmdet may have several.
_SEVERAL = {"neck", "decode_head", "train_cfg", "test_cfg"}


def check_structure(cfg: Config) -> None:
    """Check that dicts, lists and types are where a config has them.

    Raises:
        CheckError: a line for each place that has something else.
    """
    problems = [*_walk({key: cfg._cfg_dict[key] for key in SECTIONS if key in cfg}, "")]
    for key in ("runner_type", "default_scope"):
        if not isinstance(cfg.get(key, ""), str):
            problems.append(f"{key} is {cfg[key]!r}; expected a name.")
    if problems:
        raise CheckError("\n".join(problems))


def _walk(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key in ("type", "constructor") if path else ():
            kind = node.get(key, "")
            if not isinstance(kind, str) and not callable(kind):
                yield f"{path}.{key} is {shorten(kind)}; expected the name of a class."
        for key, value in node.items():
            where = f"{path}.{key}" if path else str(key)
            problem = _problem(str(key), value, where)
            if problem:
                yield f"{where} is {shorten(value)}; expected {problem}."
            elif key not in ("custom_keys", "factors"):  # of paramwise_cfg, by names of parameters
                yield from _walk(value, where)
    elif isinstance(node, (list, tuple)):
        in_list = path.rpartition(".")[2] in _LISTS | _LISTS_OR_ONE and ".pipeline." not in path
        for index, value in enumerate(node):
            where = f"{path}.{index}"
            if in_list and not (isinstance(value, Mapping) and "type" in value):
                yield f"{where} is {shorten(value)}; expected a dict with a type."
            else:
                yield from _walk(value, where)


def _problem(key: str, value: Any, path: str) -> str | None:
    """What is expected of a key instead of a value."""
    if value is None:
        return "a dict with a type" if key == "dataset" and path.count(".") == 1 else None
    if key == "data_root" and not isinstance(value, (str, Path)):
        return "the path of a folder"
    if path.startswith("default_hooks."):
        is_hook = isinstance(value, Mapping) and "type" in value
        return None if is_hook or path.count(".") > 1 else "a dict with a type, or None"
    is_list = isinstance(value, (list, tuple))
    if key == "classes" and is_list and not all(isinstance(name, str) for name in value):
        return "names, each a string"
    if key in _LISTS and ".pipeline." not in path:  # a transform may have an option of that name
        return None if is_list else "a list of dicts with a type"
    if key in _LISTS_OR_ONE:
        one = isinstance(value, Mapping)
        return None if is_list or one else "a dict with a type, or a list of them"
    if key in _PARTS and not isinstance(value, Mapping) and not (is_list and key in _SEVERAL):
        return "a dict with a type" if key in _TYPED else "a dict"
    if key in _TYPED and "type" not in value and not value.get("_scope_"):
        return "a dict with a type"
    return None


def shorten(value: Any) -> str:
    """A value, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
