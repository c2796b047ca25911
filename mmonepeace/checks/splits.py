"""The splits of a config: its data sets by loader and kind, built without their transforms."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmonepeace.checks.data import dataset_configs
from mmonepeace.checks.errors import CheckError
from mmonepeace.checks.heads import walk_paths
from mmonepeace.checks.report import Report

Kind = Literal["segmentation", "detection", "pairs", "other"]
# What does not change which samples a data set has, or what is in them.
_BESIDES = ("pipeline", "test_mode", "lazy_init", "serialize_data", "max_refetch")


@dataclass(frozen=True, eq=False)
class Part:
    """One data set of a split.

    Attributes:
        cfg: its config.
        dataset: built, not read yet.
        kind: what its samples are.
    """

    cfg: ConfigDict
    dataset: BaseDataset
    kind: Kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where the data set has none."""
        classes = self.dataset.metainfo.get("classes") or ()
        # A forgotten comma, ("cat"), leaves a string.
        return (classes,) if isinstance(classes, str) else tuple(classes)

    @property
    def palette(self) -> Any:
        """The colours that the config gives the classes, as they stand there."""
        return _palette_of(self.cfg)

    def steps(self, name: str) -> list[ConfigDict]:
        """The transforms of a type, such as "RandomCrop", with or without a scope before it."""
        return [step for step in walk(self.cfg.get("pipeline")) if kind_of(step) == name]

    def folder(self, key: str) -> Path:
        """A folder of `data_prefix`, joined with the data root."""
        return Path(self.dataset.data_prefix.get(key) or self.dataset.data_root or ".")


@dataclass(frozen=True)
class Sample:
    """A sample of a split.

    Attributes:
        path: of its picture, or of its sound.
        label: the path of its label map, its image id in a COCO file, or the modality of its file;
            None without.
        part: the data set.
    """

    path: str
    label: Any
    part: Part


@dataclass(eq=False)
class Split:
    """The data sets of one kind in a split.

    Attributes:
        name: "train", "val", "test", or "val and test" where these are the same.
        parts: its data sets.
        samples: those whose files are there, and that are to be looked at.
        left_out: how many are not looked at.
    """

    name: str
    parts: list[Part]
    samples: list[Sample] = field(default_factory=list)
    left_out: int = 0

    @property
    def kind(self) -> Kind:
        """That of its parts."""
        return self.parts[0].kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of its first part; that they are the same is checked by itself."""
        return self.parts[0].classes

    def step(self, name: str) -> ConfigDict:
        """The first transform of a type in any of its pipelines; empty if there is none."""
        return next((s for part in self.parts for s in part.steps(name)), ConfigDict())


def walk(node: Any) -> Iterator[ConfigDict]:
    """Every dict with a `type` in a node of a config."""
    return (found for _, found in walk_paths(node) if "type" in found)


def kind_of(step: ConfigDict) -> str:
    """The type of a config dict, without its scope."""
    kind = step["type"]
    return kind.split(".")[-1] if isinstance(kind, str) else kind.__name__


def read_splits(cfg: Config, report: Report) -> list[Split]:
    """The data sets of a config, by loader and kind.

    Raises:
        CheckError: if there are none, or a data set is of no known type or takes no such
            arguments.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    by_loader: dict[str, list[ConfigDict]] = {}
    for loader, dataset_cfg in dataset_configs(cfg):
        leaves = by_loader.setdefault(loader.removesuffix("_dataloader"), [])
        if _essence(dataset_cfg) not in map(_essence, leaves):  # repeated on purpose
            leaves.append(dataset_cfg)
    if not by_loader:
        raise CheckError(
            "the config has no data: none of train_dataloader, val_dataloader, test_dataloader. "
            "Name a recipe, not a part of one."
        )
    val, test = (list(map(_essence, by_loader.get(name, []))) for name in ("val", "test"))
    if val and val == test:
        by_loader["val and test"] = by_loader.pop("val")
        del by_loader["test"]
    splits = []
    for name, leaves in by_loader.items():
        parts = [part for leaf in leaves if (part := _build(leaf, name, report))]
        kinds = dict.fromkeys(part.kind for part in parts)
        splits += [Split(name, [p for p in parts if p.kind == kind]) for kind in kinds]
    return splits


def _essence(dataset_cfg: ConfigDict) -> dict[str, Any]:
    return {key: value for key, value in dataset_cfg.items() if key not in _BESIDES}


def _build(dataset_cfg: ConfigDict, name: str, report: Report) -> Part | None:
    """A data set, or None and a finding."""
    kind = dataset_cfg.get("type")
    with DATASETS.switch_scope_and_registry(None) as registry:
        try:
            cls = registry.get(kind) if isinstance(kind, str) else kind
        except ImportError:  # the library of a prefix
            cls = None
    if cls is None:
        raise CheckError(
            f"{name}: no library that is installed has a data set {kind!r}. Correct its type, or "
            "install the library that default_scope or the prefix of the type names."
        )
    if not issubclass(cls, BaseDataset):
        report.add("dataset-not-covered", name, f"{kind} is no table of samples: not checked")
        return None
    options = {**dataset_cfg, "pipeline": [], "lazy_init": True, "test_mode": False}
    metainfo = dict(dataset_cfg.get("metainfo") or {})
    whole = getattr(cls, "METAINFO", {}).get("classes") or ()
    classes = metainfo.get("classes") or whole
    if len(_palette_of(dataset_cfg)) not in (len(classes), len(whole)):
        metainfo.pop("palette", None)  # it has its own finding; mmsegmentation refuses it
        options["metainfo"] = metainfo
    try:
        dataset = DATASETS.build(options)
    except TypeError as error:
        raise CheckError(f"{name}: {kind}: {error}. Correct the config.") from None
    except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
        report.add("dataset-unusable", name, f"{kind} says: {error or type(error).__name__}")
        return None
    return Part(dataset_cfg, dataset, _kind(dataset))


def _palette_of(dataset_cfg: ConfigDict) -> Any:
    return (dataset_cfg.get("metainfo") or {}).get("palette") or ()


def _kind(dataset: BaseDataset) -> Kind:
    if hasattr(dataset, "columns"):
        return "pairs"
    if hasattr(dataset, "COCOAPI") and not dataset.metainfo.get("thing_classes"):
        return "detection"
    if hasattr(dataset, "seg_map_suffix") and hasattr(dataset, "reduce_zero_label"):
        return "segmentation"
    return "other"
