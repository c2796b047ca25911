"""The data sets of a recipe: folders, files, and the classes that its heads tell apart."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from mmonepeace.checks.errors import CheckError, data_help
from mmonepeace.checks.heads import head_classes
from mmonepeace.checks.labels import scan_labels
from mmonepeace.checks.overrides import arguments
from mmonepeace.checks.preflight_coco import check_coco

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_LABEL_SCAN_SECONDS = 20.0
_FILES_LOOKED_FOR = 1000  # of a data set of pairs


def dataset_configs(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """(name of the dataloader, config of a data set), wrappers opened."""

    def leaves(dataset: ConfigDict) -> Iterator[ConfigDict]:
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner is None:
            yield dataset
        else:
            for one in inner if isinstance(inner, (list, tuple)) else [inner]:
                yield from leaves(one)

    for loader in _LOADERS:
        if cfg.get(loader):
            for dataset in leaves(cfg[loader].dataset):
                yield loader, dataset


def metric_configs(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """(name of the evaluator, config of a metric)."""
    for name in ("val_evaluator", "test_evaluator"):
        metrics = cfg.get(name) or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            yield name, metric


def check_data(cfg: Config, loaders: tuple[str, ...] = _LOADERS) -> None:
    """Check folders, classes and labels of the data sets.

    Raises:
        CheckError: naming the folder, the file or the numbers, and what to do.
        LabelError: for a label outside the classes.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    seen = []
    for loader, dataset_cfg in dataset_configs(cfg):
        if loader not in loaders or dataset_cfg in seen:
            continue
        seen.append(dataset_cfg)
        root = Path(dataset_cfg.get("data_root") or ".")
        for key, folder in (dataset_cfg.get("data_prefix") or {}).items():
            path = root / (folder or "")
            if not path.is_dir():
                raise CheckError(f"{loader}: {key} folder {path} does not exist.\n{data_help(cfg)}")
        dataset = _build_dataset(cfg, loader, dataset_cfg)
        if hasattr(dataset, "columns"):
            _check_pairs(cfg, loader, dataset)
        elif hasattr(dataset, "COCOAPI") and "thing_classes" not in dataset.metainfo:
            check_classes(cfg, dataset.metainfo.get("classes"))
            check_coco(cfg, loader, dataset, dataset_cfg)
        elif hasattr(dataset, "reduce_zero_label"):
            _check_segmentation(cfg, loader, dataset, dataset_cfg)
        elif hasattr(dataset, "load_data_list"):
            check_classes(cfg, dataset.metainfo.get("classes"))
            if not _load(cfg, loader, dataset):
                raise CheckError(f"{loader}: the data set is empty.\n{data_help(cfg)}")


def _build_dataset(cfg: Config, loader: str, dataset_cfg: ConfigDict) -> Any:
    """The data set without its transforms, not read yet where it can wait."""
    options = {"pipeline": [], "lazy_init": True}
    known = arguments(dataset_cfg)
    try:
        return DATASETS.build({**dataset_cfg, **{k: v for k, v in options.items() if k in known}})
    except (FileNotFoundError, ValueError) as error:
        raise CheckError(f"{loader}: {error}\n{data_help(cfg)}") from None


def _load(cfg: Config, loader: str, dataset: Any) -> list[dict[str, Any]]:
    """The samples of a data set."""
    try:
        return dataset.load_data_list()
    except (OSError, ValueError) as error:
        raise CheckError(f"{loader}: {error}\n{data_help(cfg)}") from None


def _check_pairs(cfg: Config, loader: str, dataset: Any) -> None:
    """Check the manifests of pairs, and whether their files are there."""
    infos = _load(cfg, loader, dataset)
    some = random.Random(0).sample(infos, min(len(infos), _FILES_LOOKED_FOR))
    paths = [Path(i[key]) for i in some for key in ("img_path", "audio_path") if key in i]
    missing = [path for path in paths if not path.is_file()]
    allowed = 0.0 if dataset.test_mode else dataset.max_broken * len(paths)
    if len(missing) > allowed:
        raise CheckError(
            f"{loader}: {len(missing)} of {len(paths)} files that were looked for do not exist; "
            f"the first is {missing[0]}. Check data_root and data_prefix.\n{data_help(cfg)}"
        )


def _check_segmentation(cfg: Config, loader: str, dataset: Any, dataset_cfg: ConfigDict) -> None:
    """Check pictures, label maps and classes."""
    check_classes(cfg, dataset.metainfo.get("classes"))
    infos = dataset.load_data_list()
    if not infos:
        suffix = dataset_cfg.get("img_suffix", getattr(dataset, "img_suffix", ""))
        root = dataset_cfg.get("data_root") or "."
        raise CheckError(f"{loader}: no *{suffix} images in {root}.\n{data_help(cfg)}")
    missing = [i for i in infos if not Path(i.get("seg_map_path", i["img_path"])).is_file()]
    if missing:
        raise CheckError(
            f"{loader}: {len(missing)} of {len(infos)} images have no label map; the first is "
            f"{missing[0]['img_path']}, whose label map should be {missing[0]['seg_map_path']}. "
            "Check seg_map_path and seg_map_suffix of the dataset."
        )
    head = cfg.model.get("decode_head")
    if head:
        load = next(
            TRANSFORMS.build(step)
            for step in dataset_cfg.pipeline
            if step["type"].split(".")[-1] == "LoadAnnotations"
        )
        head = head[-1] if isinstance(head, (list, tuple)) else head
        ignore = head.get("ignore_index", 255)
        scan_labels(infos, load, head["num_classes"], ignore, _LABEL_SCAN_SECONDS)


def check_classes(cfg: Config, classes: tuple[str, ...] | None) -> None:
    """Hold `num_classes` of the heads against the classes of the data set.

    Raises:
        CheckError: naming the head and the right number.
    """
    if isinstance(classes, str):
        raise CheckError(
            f"classes is the text {classes!r}, not a tuple of names. A single name needs a comma: "
            f"metainfo=dict(classes=({classes!r},))."
        )
    for path, found, others in head_classes(cfg.model) if classes else ():
        expected = len(classes) - others
        if found != expected:
            raise CheckError(
                f"{path} is {found}, but the data set has {len(classes)} classes "
                f"({', '.join(classes[:5])}, ...). Set {path}={expected}."
            )
