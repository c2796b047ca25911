"""Where things are in a config: data sets, metrics, and everything else that has a type."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
# What is read of a config, but for its file's variables, which may have any value.
SECTIONS = (
    "model", *LOADERS, "optim_wrapper", "param_scheduler", "train_cfg", "val_cfg", "test_cfg",
    "val_evaluator", "test_evaluator", "default_hooks", "custom_hooks", "visualizer",
    "vis_backends", "env_cfg", "log_processor", "log_level", "randomness", "auto_scale_lr",
    "tta_model", "tta_pipeline", "strategy",
)  # fmt: skip


def is_detection(cfg: Config) -> bool:
    """Whether a recipe is one of mmdetection."""
    return cfg.get("default_scope") == "mmdet"


def dataset_configs(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """(name of the dataloader, config of a data set), wrappers opened."""

    def leaves(dataset: ConfigDict) -> Iterator[ConfigDict]:
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner is None:
            yield dataset
        else:
            for one in inner if isinstance(inner, (list, tuple)) else [inner]:
                yield from leaves(one)

    for loader in LOADERS:
        if cfg.get(loader):
            for dataset in leaves(cfg[loader].dataset):
                yield loader, dataset


def metric_configs(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """(name of the evaluator, config of a metric)."""
    for name in ("val_evaluator", "test_evaluator"):
        metrics = cfg.get(name) or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            yield name, metric


def text_steps(cfg: Config) -> list[ConfigDict]:
    """The transforms with a tokenizer, of data sets and of metrics, also within other transforms."""
    steps = [step for _, dataset in dataset_configs(cfg) for step in walk(dataset.get("pipeline"))]
    steps += [metric.get("tokenize") or {} for _, metric in metric_configs(cfg)]
    return [step for step in steps if "tokenizer" in step]


def given_root(cfg: Config) -> str | None:
    """The folder that all data sets are in instead of that of the recipe."""
    own = cfg.get("data_root")
    roots = {str(dataset.get("data_root")) for _, dataset in dataset_configs(cfg)}
    return min(roots) if own and len(roots) == 1 and own not in roots else None


def with_given_root(cfg: Config, text: str) -> str:
    """What a recipe says of its files, with the folder that was given."""
    root = given_root(cfg)
    if root is None:
        return text
    return re.sub(rf"(?<![\w/]){re.escape(cfg.data_root)}(?![\w-])", lambda _: root, text)


def walk_paths(node: Any, path: str = "") -> Iterator[tuple[str, ConfigDict]]:
    """(path, dict) of every dict in a node of a config, the node included, outermost first."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk_paths(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk_paths(value, f"{path}.{index}")


def walk(node: Any) -> Iterator[ConfigDict]:
    """Every dict with a `type` in a node of a config."""
    return (child for _, child in walk_paths(node) if "type" in child)


def type_name(node: Mapping[str, Any]) -> str:
    """The type of a config dict, without its scope."""
    kind = node["type"]
    return kind.split(".")[-1] if isinstance(kind, str) else kind.__name__
