"""Features of a teacher, computed once for all views of a data set: a resumable cache of shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmonepeace import checkpoint
from mmonepeace.apis.feature_cache import FeatureCache, write_shard
from mmonepeace.atomic_file import atomic_file
from mmonepeace.datasets.feature_shards import read_shard
from mmonepeace.datasets.sample_errors import SampleError
from mmonepeace.datasets.teacher_features import view_key

if TYPE_CHECKING:
    from mmonepeace.models.distiller import OnePeaceDistiller

FACTS = "teacher.json"  # in the folder: of which teacher and views the features are
FORMAT = "mmonepeace-teacher-features"
Progress = Callable[[int], None]  # views done


class TeacherCache:
    """The features of one teacher for the views of one data set, in a folder.

    Args:
        folder: that is new, or was filled before.
        model: config of an `OnePeaceDistiller`.
        dataset: config of a `PairDataset` with one modality, whose pipeline is that of training.
        views: of each sample, see `RepeatViews`.

    Raises:
        ValueError: if the folder is of another teacher or other views, a file of it is damaged, or the
            samples of the data set are not those of one modality.
        OSError: if the folder cannot be used.
    """

    def __init__(
        self, folder: str | Path, model: Mapping[str, Any], dataset: Mapping[str, Any], views: int
    ) -> None:
        from mmengine.registry import DATASETS, MODELS

        self.folder, self.views = Path(folder), views
        if "columns" not in dataset or len(dataset["columns"]) != 1:
            raise ValueError(
                "features are cached for a PairDataset with images or audio alone: set columns of the "
                "data set to one modality. Without --features they are computed in each step."
            )
        (self.modality,) = dataset["columns"]
        if (model.get("data_preprocessor") or {}).get("augmentation"):
            raise ValueError(
                "model.data_preprocessor.augmentation changes images after their features are computed. "
                "Set it to None, or leave out --features."
            )
        pipeline = list(dataset["pipeline"])
        self.model_cfg = deepcopy(dict(model))
        self._check_facts(pipeline)
        first = dict(type="mmonepeace.RepeatViews", views=views)
        self.dataset: Any = DATASETS.build(deepcopy({**dataset, "pipeline": [first, *pipeline]}))
        self._build = MODELS.build
        meta = {"format": FORMAT, "modality": self.modality}
        self.shards = FeatureCache(self.folder, read_shard, partial(write_shard, meta=meta))

    def missing(self) -> list[tuple[int, int]]:
        """(index, view) of those that have no features; files that do not exist are left out."""
        found = []
        for index in range(len(self.dataset)):
            for view in range(self.views):
                try:
                    if self._key(index, view) not in self.shards:
                        found.append((index, view))
                except SampleError:  # training replaces the sample by another
                    continue
        return found

    def fill(
        self,
        todo: list[tuple[int, int]],
        batch_size: int,
        num_workers: int = 0,
        progress: Progress = lambda done: None,
    ) -> int:
        """Compute features; finished shards are kept if the run is stopped.

        Args:
            todo: what `missing` gave.
            batch_size: views that are computed at once.
            num_workers: processes that read files.
            progress: is told the views that are done.

        Returns:
            the number of views that were computed.
        """
        if not todo:
            return 0
        loader = DataLoader(
            self.dataset,
            batch_size,
            sampler=todo,
            num_workers=num_workers,
            collate_fn=_as_lists,
        )
        done = computed = 0
        for count in self.shards.fill(self._parts(loader, todo)):
            computed += count
            done = min(done + batch_size, len(todo))
            progress(done)
        return computed

    def _parts(
        self, loader: DataLoader[Any], todo: list[tuple[int, int]]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        model: OnePeaceDistiller | None = None
        position, computed = 0, set[str]()
        for batch in loader:
            samples = batch["data_samples"]
            pairs = todo[position : position + len(samples)]
            position += len(samples)
            # A sample that cannot be read is another one, which has its own features.
            keys = [
                self._key(sample.sample_idx, view)
                for sample, (_, view) in zip(samples, pairs, strict=True)
            ]
            fresh = {k: i for i, k in enumerate(keys) if k not in self.shards and k not in computed}
            if not fresh:
                yield 0, {}
                continue
            computed |= fresh.keys()
            model = model or self._load()
            inputs = model.data_preprocessor(batch, False)["inputs"]
            target_BLE = model.targets(inputs)[self.modality].half().cpu()
            yield len(fresh), {key: target_BLE[i] for key, i in fresh.items()}

    def _load(self) -> OnePeaceDistiller:
        """The model, its teacher with weights, where it is fastest."""
        model = self._build({**self.model_cfg, "cached": False, "init_cfg": None})
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device).eval()

    def _key(self, index: int, view: int) -> str:
        record = self.dataset.get_data_info(index)
        seed = (self.dataset.seed, view, index)
        return view_key(self.modality, {**record, "seed": seed}, str(self.folder))

    def _check_facts(self, pipeline: list[Any]) -> None:
        """Write of what the features are, or compare it."""
        teacher = dict(self.model_cfg["teacher"])
        path = teacher.pop("checkpoint", None)
        facts = {
            "format": FORMAT,
            "weights": _fingerprint(path),
            "teacher": {key: value for key, value in teacher.items() if value is not None},
            "pipeline": pipeline,
            "normalisation": self.model_cfg.get("data_preprocessor"),
        }
        facts = json.loads(json.dumps(_plain(facts)))
        file = self.folder / FACTS
        # Where the teacher is not, its features have been copied from elsewhere.
        absent = "checkpoint" in self.model_cfg["teacher"] and path is None
        if absent and not file.exists():
            raise ValueError(
                f"{self.folder} has no features, and the teacher does not exist. Name its checkpoint: "
                "--checkpoint PATH"
            )
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(facts, indent=1) + "\n")
            return
        try:
            known = json.loads(file.read_text())
        except ValueError:
            known = {}
        if not isinstance(known, dict) or known.get("format") != FORMAT:
            raise ValueError(f"{file} is damaged. Name another folder: --features DIR")
        for name, value in facts.items():
            if known.get(name) != value and not (absent and name in ("weights", "teacher")):
                raise ValueError(
                    f"{self.folder} has features of {name} {_brief(known.get(name))}, and this run has "
                    f"{_brief(value)}. Name another folder: --features DIR"
                )


def _fingerprint(path: str | None) -> str | None:
    return None if path is None else checkpoint.fingerprint_of(checkpoint.read(path)[0])


def _as_lists(samples: list[dict[str, Any]]) -> dict[str, Any]:
    names = samples[0]["inputs"]
    inputs = {name: [sample["inputs"][name] for sample in samples] for name in names}
    return {"inputs": inputs, "data_samples": [sample["data_samples"] for sample in samples]}


def _plain(value: Any) -> Any:
    """Dicts, lists, numbers and texts of a config."""
    if isinstance(value, Mapping):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else f"{text[:97]}..."
