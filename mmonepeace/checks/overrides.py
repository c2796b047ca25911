"""Strict overrides: a key of `--cfg-options` that nothing reads is refused."""

import inspect
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmonepeace.checks.config import LOADERS, walk_paths
from mmonepeace.checks.report import CheckError
from mmonepeace.checks.signatures import signature_of
from mmonepeace.checks.structure import check_structure
from mmonepeace.datasets.masking import MASK_RATIOS
from mmonepeace.spec import Arch

# Top-level keys that are read: the Runner's arguments, what it takes from its config, and TTA.
# The preprocessor is the model's own: the Runner would only fill it in where it is missing.
_READ_KEYS = {*inspect.signature(Runner.__init__).parameters} - {"self", "data_preprocessor"} | {
    "activation_checkpointing", "compile", "tta_model", "tta_pipeline",
}  # fmt: skip
_LOADER_KEYS = {*inspect.signature(DataLoader).parameters, "num_batch_per_epoch"}
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
    "paramwise_cfg": {"decay_rate", "preset", "depth_zero", "no_decay", "factors"},
    "lora": {"rank", "alpha", "dropout", "targets"},
    "arch": {field.name for field in fields(Arch)},
    "ratios": {name for ratios in MASK_RATIOS.values() for name in ratios},
    "head": {
        "dropout", "num_classes", "attn_pooling", "pooler", "pooler_dropout", "hidden_ratio", "num_views",
    },
    # Options of the modality adapters.
    "image": {
        "img_size", "cls_token", "rpb_sides", "rpb_resampling", "in_channels", "initial_positions",
        "num_frames",
    },
    "text": {"vocab_size", "num_positions", "num_buckets"},
    "audio": {
        "feature_dim", "num_buckets", "pos_depth", "pos_kernel", "pos_groups", "pos_pre_norm",
        "padding", "clip_seconds", "features", "frame_stride", "spec_masks", "equaliser",
    },
    "data_prefix": {"path", "img"},
    **dict.fromkeys(LOADERS, _LOADER_KEYS),
}  # fmt: skip


def apply_overrides(cfg: Config, overrides: dict[str, Any] | None) -> None:
    """Merge `--cfg-options`, refusing keys that nothing reads; then settle the loaders' workers.

    A key is known if the config has it, or if the class of its dict takes such an argument. An
    element of a list or tuple is named by its index.

    Raises:
        CheckError: naming the key and the most similar ones.
    """
    check_structure(cfg)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    for key in overrides or {}:
        _check_key(cfg, key, overrides[key])  # type: ignore[index]
    for key, value in (overrides or {}).items():
        _replaced(cfg._cfg_dict, key.split("."), value)
    check_structure(cfg)
    for loader in LOADERS:
        _settle_workers(cfg.get(loader))


def _replaced(node: Any, names: Sequence[str], value: Any) -> Any:
    """A part of a config with one value replaced; dicts are merged, as MMEngine does.

    MMEngine itself replaces neither elements of tuples nor those of lists that are no dicts.
    """
    if not names:
        if isinstance(node, dict) and isinstance(value, dict):
            merged = Config(dict(node=node))
            merged.merge_from_dict(dict(node=value))
            return merged.node
        return ConfigDict(value) if isinstance(value, dict) else value
    name, *rest = names
    if isinstance(node, (list, tuple)):
        elements = list(node)
        elements[int(name)] = _replaced(elements[int(name)], rest, value)
        return type(node)(elements)
    node = ConfigDict() if node is None else node
    node[name] = _replaced(node.get(name), rest, value)
    return node


def _settle_workers(loader: Any) -> None:
    """Drop what torch refuses without workers: options of workers."""
    if isinstance(loader, dict) and loader.get("num_workers") == 0:
        for name in ("persistent_workers", "prefetch_factor", "timeout", "multiprocessing_context"):
            loader.pop(name, None)


def _check_key(cfg: Config, key: str, value: Any = None) -> None:
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
                + (
                    f"Did you mean {guess}?"
                    if near
                    else f"It takes {', '.join(sorted(known | taken))}."
                )
            )
        node = node.get(name) if isinstance(node, dict) else None
    if isinstance(node, dict) and node and value is not None and not isinstance(value, dict):
        inside = ", ".join(f"{key}.{name}" for name in list(node)[:3])
        raise CheckError(
            f"--cfg-options {key}={value}: {key} is a dict, which one value cannot replace. Set a key "
            f"of it, such as {inside}."
        )


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
    return set(signature_of(node).arguments)
