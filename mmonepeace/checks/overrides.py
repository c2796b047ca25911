"""Strict overrides: a key of `--cfg-options` that nothing would read is refused."""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmonepeace.checks.config import LOADERS
from mmonepeace.checks.errors import CheckError

# Top-level keys that are read: the Runner's arguments, what it takes from its config, and TTA.
# The preprocessor is the model's own: the Runner would only fill it in where it is missing.
_READ_KEYS = {*inspect.signature(Runner.__init__).parameters} - {"self", "data_preprocessor"} | {
    "activation_checkpointing", "compile", "tta_model", "tta_pipeline",
}  # fmt: skip
_OFLOADERS = {*inspect.signature(DataLoader).parameters, "num_batch_per_epoch"}
_REGISTRIES = (
    mmengine_registry.RUNNERS,
    mmengine_registry.STRATEGIES,
    mmengine_registry.DATA_SAMPLERS,
    mmengine_registry.MODELS,
    mmengine_registry.TASK_UTILS,
    mmengine_registry.DATASETS,
    mmengine_registry.TRANSFORMS,
    mmengine_registry.OPTIMIZERS,
    mmengine_registry.OPTIM_WRAPPERS,
    mmengine_registry.PARAM_SCHEDULERS,
    mmengine_registry.HOOKS,
    mmengine_registry.LOOPS,
    mmengine_registry.METRICS,
    mmengine_registry.VISUALIZERS,
)
# Arguments that no class declares.
_UNDECLARED = {
    "test_cfg": {
        "mode", "crop_size", "stride", "crop_batch", "blend", "accumulate_dtype",
        "accumulate_device", "max_logits_gb",
    },
    "rcnn": {"score_thr", "nms", "max_per_img", "mask_thr_binary"},
    "rpn": {"nms_pre", "nms", "max_per_img", "min_bbox_size"},
    "nms": {"iou_threshold", "sigma", "min_score", "method", "max_num", "class_agnostic"},
    "filter_cfg": {"filter_empty_gt", "min_size"},
    "data_prefix": {"path", "img"},
    **dict.fromkeys(LOADERS, _OFLOADERS),
}  # fmt: skip


def apply_overrides(cfg: Config, overrides: dict[str, Any] | None) -> None:
    """Merge `--cfg-options`, refusing keys that nothing would read.

    A key is known if the config has it, or if the class of its dict takes such an argument.

    Raises:
        CheckError: naming the key and its nearest relatives.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    for key in overrides or {}:
        _check_key(cfg, key)
    if overrides:
        cfg.merge_from_dict(overrides)


def _check_key(cfg: Config, key: str) -> None:
    first, *_ = parts = key.split(".")
    read_keys = _read_keys(cfg)
    if first in cfg and first not in read_keys:
        raise CheckError(
            f"--cfg-options {key}: {first!r} is a shorthand that is used up while the config is "
            "read, so overriding it changes nothing. Override what it fills in, such as "
            f"{_example_use(cfg, first)}."
        )
    node: Any = cfg._cfg_dict
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth]) or "the config"
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise CheckError(
                    f"--cfg-options {key}: {path} is a list of {len(node)}; name an element by "
                    f"its index, 0 to {len(node) - 1}."
                )
            node = node[int(part)]
            continue
        known = set(node) if isinstance(node, dict) else set()
        taken = read_keys if depth == 0 else arguments(node)
        if depth:
            taken = taken | _UNDECLARED.get(parts[depth - 1], set())
        if part not in known | taken:
            near = get_close_matches(part, sorted(known | taken), 3, 0.5)
            where = ".".join(parts[:depth])
            guess = " or ".join(f"{where}.{n}" if where else n for n in near)
            raise CheckError(
                f"--cfg-options {key}: {path} has no {part!r}. "
                + (f"Did you mean {guess}?" if near else f"It has {', '.join(sorted(known))}.")
            )
        node = node.get(part) if isinstance(node, dict) else None


def _read_keys(cfg: Config) -> set[str]:
    """Top-level keys that the runner of a config reads."""
    if "runner_type" not in cfg:
        return _READ_KEYS
    # FlexibleRunner.from_cfg passes the others on, but not these.
    unread = {"data_preprocessor", "compile", "cfg"}
    return arguments({"type": cfg.runner_type}) - unread | {"runner_type"}


def _example_use(cfg: Config, name: str) -> str:
    """A place in the config that holds the value of a shorthand."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            here = f"{path}.{key}" if path else str(key)
            yield here, value
            if isinstance(value, (dict, list)):
                yield from walk(value, here)

    for path, value in walk(cfg._cfg_dict, ""):
        if path != name and path.split(".")[0] in (*LOADERS, "model") and value == cfg[name]:
            return path
    return "a key of model or train_dataloader"


def arguments(node: Any) -> set[str]:
    """Constructor arguments of the class that a config dict names."""
    kind = node.get("type") if isinstance(node, dict) else None
    if not isinstance(kind, str):
        return set()
    taken: set[str] = set()
    scope = DefaultScope.get_current_instance()
    for registry in _REGISTRIES:
        with registry.switch_scope_and_registry(scope and scope.scope_name) as local:
            try:
                cls = local.get(kind)
            except (ImportError, RuntimeError):  # not in this registry
                cls = None
        if not callable(cls):
            continue
        for base in inspect.getmro(cls) if inspect.isclass(cls) else (cls,):
            parameters = inspect.signature(base).parameters.values()
            taken |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return taken
