"""Strict overrides: a key of `--cfg-options` that nothing reads is refused."""

import inspect
from difflib import get_close_matches
from typing import Any

from mmengine import registry as root
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmonepeace.checks.config import LOADERS, walk_paths
from mmonepeace.checks.report import CheckError

# Top-level keys that are read: the Runner's arguments, what it takes from its config, and TTA.
# The preprocessor is the model's own: the Runner would only fill it in where it is missing.
_READ_KEYS = {*inspect.signature(Runner.__init__).parameters} - {"self", "data_preprocessor"} | {
    "activation_checkpointing", "compile", "tta_model", "tta_pipeline",
}  # fmt: skip
_LOADER_KEYS = {*inspect.signature(DataLoader).parameters, "num_batch_per_epoch"}
_REGISTRIES = (
    root.RUNNERS, root.STRATEGIES, root.DATA_SAMPLERS, root.MODELS, root.TASK_UTILS, root.DATASETS,
    root.TRANSFORMS, root.OPTIMIZERS, root.OPTIM_WRAPPERS, root.PARAM_SCHEDULERS, root.HOOKS,
    root.LOOPS, root.METRICS, root.VISUALIZERS,
)  # fmt: skip
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
    **dict.fromkeys(LOADERS, _LOADER_KEYS),
}  # fmt: skip


def apply_overrides(cfg: Config, overrides: dict[str, Any] | None) -> None:
    """Merge `--cfg-options`, refusing keys that nothing reads.

    A key is known if the config has it, or if the class of its dict takes such an argument.

    Raises:
        CheckError: naming the key and the most similar ones.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    for key in overrides or {}:
        _check_key(cfg, key)
    if overrides:
        cfg.merge_from_dict(overrides)


def _check_key(cfg: Config, key: str) -> None:
    first, *_ = names = key.split(".")
    read_keys = _read_keys(cfg)
    if first in cfg and first not in read_keys:
        raise CheckError(
            f"--cfg-options {key}: {first!r} is a variable of the config file, which has "
            "been read already: overriding it changes nothing. Override what it was used for, such as "
            f"{_example_use(cfg, first)}."
        )
    node: Any = cfg._cfg_dict
    for depth, name in enumerate(names):
        path = ".".join(names[:depth]) or "the config"
        if isinstance(node, (list, tuple)):
            if not name.isdigit() or int(name) >= len(node):
                raise CheckError(
                    f"--cfg-options {key}: {path} is a list of {len(node)}; name an element by "
                    f"its index, 0 to {len(node) - 1}."
                )
            node = node[int(name)]
            continue
        known = set(node) if isinstance(node, dict) else set()
        taken = read_keys if depth == 0 else arguments(node)
        if depth:
            taken = taken | _UNDECLARED.get(names[depth - 1], set())
        if name not in known | taken:
            near = get_close_matches(name, sorted(known | taken), 3, 0.5)
            where = ".".join(names[:depth])
            guess = " or ".join(f"{where}.{n}" if where else n for n in near)
            raise CheckError(
                f"--cfg-options {key}: {path} has no {name!r}. "
                + (f"Did you mean {guess}?" if near else f"It has {', '.join(sorted(known))}.")
            )
        node = node.get(name) if isinstance(node, dict) else None


def _read_keys(cfg: Config) -> set[str]:
    """Top-level keys that the runner of a config reads."""
    if cfg.get("runner_type") != "mmonepeace.PretrainRunner":
        return _READ_KEYS | {"runner_type", "max_broken"}
    # FlexibleRunner.from_cfg passes the others on, but not these.
    unread = {"data_preprocessor", "compile", "cfg"}
    return arguments({"type": cfg.runner_type}) - unread | {"runner_type"}


def _example_use(cfg: Config, name: str) -> str:
    """A place in the config that has the value of a variable."""

    for path, node in walk_paths({key: cfg[key] for key in ("model", *LOADERS) if key in cfg}):
        for key, value in node.items():
            if value == cfg[name]:
                return f"{path}.{key}" if path else key
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
            if inspect.isclass(base) and "__init__" not in vars(
                base
            ):  # takes what the next one does
                continue
            parameters = inspect.signature(base).parameters.values()
            taken |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return taken
