"""The splits of a config: its data sets by loader and kind, built without their transforms."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from mmonepeace.checks.config import LOADERS, dataset_configs, type_name, walk
from mmonepeace.checks.overrides import arguments
from mmonepeace.checks.report import CheckError, Report

Kind = Literal["segmentation", "detection", "pairs", "other"]
# Options that do not change which samples a data set has, or what is in them.
_UNRELATED = ("pipeline", "test_mode", "lazy_init", "serialize_data", "max_refetch")


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """One data set of a split.

    Attributes:
        cfg: its config.
        built: the data set, its samples not read yet.
        kind: what its samples are.
    """

    cfg: ConfigDict
    built: BaseDataset
    kind: Kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where the data set has none."""
        classes = self.built.metainfo.get("classes") or ()
        # A forgotten comma, ("cat"), leaves a string.
        return (classes,) if isinstance(classes, str) else tuple(classes)

    def steps(self, name: str) -> list[ConfigDict]:
        """The transforms of a type, such as "RandomCrop", with or without a scope before it."""
        return [step for step in walk(self.cfg.get("pipeline")) if type_name(step) == name]

    def folder(self, key: str) -> Path:
        """A folder of `data_prefix`, joined with the data root."""
        return Path(self.built.data_prefix.get(key) or self.built.data_root or ".")


@dataclass(frozen=True)
class Sample:
    """A file of a split.

    Attributes:
        path: of its image or audio clip.
        label: the path of its label map, its image id in a COCO file, or the modality of its file;
            None without.
        dataset: the data set that lists it.
    """

    path: str
    label: Any
    dataset: DatasetInfo


@dataclass(eq=False)
class Split:
    """The data sets of one kind in a split.

    Attributes:
        name: "train", "val", "test", or "val and test" where these are the same.
        datasets: its data sets.
        report: gets the findings about it.
        samples: those whose files exist, and that are to be read.
        left_out: how many are not read.
    """

    name: str
    datasets: list[DatasetInfo]
    report: Report
    samples: list[Sample] = field(default_factory=list)
    left_out: int = 0

    @property
    def kind(self) -> Kind:
        """That of its data sets."""
        return self.datasets[0].kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of its first data set; whether they all agree is checked elsewhere."""
        return self.datasets[0].classes

    def add(self, code: str, where: Iterable[str] | None = None, **options: Any) -> None:
        """Report a finding, see `Report.add`."""
        self.report.add(code, self.name, where, **options)

    def existing(self) -> Iterator[DatasetInfo]:
        """The data sets all of whose folders exist; reports the folders that do not."""
        for info in self.datasets:
            folders = {key: Path(folder or ".") for key, folder in info.built.data_prefix.items()}
            missing = [key for key, folder in folders.items() if not folder.is_dir()]
            for key in missing:
                error = f"the folder {folders[key]} ({key} of data_prefix) does not exist"
                self.add("folder-missing", error=error)
            if not missing:
                yield info

    def read(
        self, code: str, *errors: type[Exception]
    ) -> Iterator[tuple[DatasetInfo, list[dict[str, Any]]]]:
        """The data sets whose folders exist, and the samples that they list.

        A data set that cannot be read is reported, under a code if it raises one of these errors.
        """
        for info in self.existing():
            try:
                entries = info.built.load_data_list()
            except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
                refusal = code if isinstance(error, errors) else "dataset-unusable"
                self.add(refusal, type=info.cfg.type, error=f"{error}".rstrip("."))
                continue
            yield info, entries

    def step(self, name: str) -> ConfigDict:
        """The first transform of a type in any of its pipelines; empty if there is none."""
        return next((step for info in self.datasets for step in info.steps(name)), ConfigDict())

    def draw(self, limit: int | None) -> None:
        """Keep at most this many samples, drawn at random."""
        total = len(self.samples)
        if limit is not None and total > limit:
            chosen = sorted(random.Random(0).sample(range(total), limit))
            self.samples = [self.samples[i] for i in chosen]
            self.left_out = total - limit


def read_splits(cfg: Config, report: Report, loaders: Sequence[str] = LOADERS) -> list[Split]:
    """The data sets of a config's dataloaders, by loader and kind.

    Raises:
        CheckError: if there are none, or a data set is of no known type or takes no such arguments.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    by_loader: dict[str, list[ConfigDict]] = {}
    for loader, dataset_cfg in dataset_configs(cfg):
        leaves = by_loader.setdefault(loader.removesuffix("_dataloader"), [])
        if loader in loaders and _essence(dataset_cfg) not in map(_essence, leaves):
            leaves.append(dataset_cfg)  # else repeated on purpose
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
        infos = [info for leaf in leaves if (info := _build(leaf, name, report))]
        kinds = dict.fromkeys(info.kind for info in infos)
        splits += [Split(name, [i for i in infos if i.kind == kind], report) for kind in kinds]
    return splits


def _essence(dataset_cfg: ConfigDict) -> dict[str, Any]:
    return {key: value for key, value in dataset_cfg.items() if key not in _UNRELATED}


def _build(dataset_cfg: ConfigDict, name: str, report: Report) -> DatasetInfo | None:
    """A data set, or None and a finding."""
    kind = dataset_cfg.get("type")
    with DATASETS.switch_scope_and_registry(None) as registry:
        try:
            cls = registry.get(kind) if isinstance(kind, str) else kind
        except ImportError:  # the library of a prefix
            cls = None
    if cls is None:
        raise CheckError(
            f"{name}: no installed library has a data set {kind!r}. Correct its type, or install "
            "the library that default_scope or the prefix of the type names."
        )
    options = {**dataset_cfg, "pipeline": [], "lazy_init": True, "test_mode": False}
    if not issubclass(cls, BaseDataset):  # a stream
        known = {*dataset_cfg, *arguments(dataset_cfg)}
        options = {key: value for key, value in options.items() if key in known}
    metainfo = dict(dataset_cfg.get("metainfo") or {})
    known = getattr(cls, "METAINFO", {}).get("classes") or ()
    classes = metainfo.get("classes") or known
    if len(palette_of(dataset_cfg)) not in (len(classes), len(known)):
        metainfo.pop("palette", None)  # it has its own finding; mmsegmentation refuses it
        options["metainfo"] = metainfo
    try:
        built = DATASETS.build(options)
    except TypeError as error:
        raise CheckError(f"{name}: {kind}: {error}. Correct the config.") from None
    except Exception as error:  # noqa: BLE001  (data sets refuse data in many ways)
        report.add("dataset-unusable", name, type=kind, error=str(error) or type(error).__name__)
        return None
    if not isinstance(built, BaseDataset):
        report.add("dataset-not-covered", name, type=kind)
        return None
    return DatasetInfo(dataset_cfg, built, _kind(built))


def palette_of(dataset_cfg: ConfigDict) -> Any:
    """The colours that a config gives to the classes, unchecked."""
    return (dataset_cfg.get("metainfo") or {}).get("palette") or ()


def _kind(dataset: BaseDataset) -> Kind:
    if hasattr(dataset, "columns"):
        return "pairs"
    if hasattr(dataset, "COCOAPI") and not dataset.metainfo.get("thing_classes"):
        return "detection"
    if hasattr(dataset, "seg_map_suffix") and hasattr(dataset, "reduce_zero_label"):
        return "segmentation"
    return "other"
