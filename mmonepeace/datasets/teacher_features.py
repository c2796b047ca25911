"""Features of a teacher that were computed before, as inputs of distillation.

A sample then has to be the same whenever it is read: `RepeatViews` gives a file a few views, such as
crops, which are repeated epoch after epoch.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform

from mmonepeace.datasets.feature_shards import FeatureShards, item_keys
from mmonepeace.datasets.pairs import RECORD_KEYS
from mmonepeace.datasets.sample_errors import MissingError
from mmonepeace.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RepeatViews(BaseTransform):
    """Let what is random in a sample repeat: epoch `views` is epoch 0 again. First in a pipeline.

    Args:
        views: of each sample, 1 or more.
    """

    def __init__(self, views: int = 1) -> None:
        if views < 1:
            raise ValueError(f"views is {views}, expected 1 or more.")
        self.views = views

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace the epoch in `seed`, which is (seed of the data set, epoch, index)."""
        seed, epoch, index = results["seed"]
        results["seed"] = seed, epoch % self.views, index
        return results


@TRANSFORMS.register_module()
class LoadTeacherFeatures(BaseTransform):
    """Add the features of a teacher as `inputs["image_target"]`, (L, E) in half precision.

    Likewise of other modalities. `RepeatViews` begins the pipeline; this comes after what reads files, so
    that a broken one is told to be that.

    Args:
        folder: that `mmonepeace distill --features` has filled.
        modality: "image" or "audio".

    Raises:
        ValueError: if the folder lacks those of a sample, or a file of it is damaged.
    """

    def __init__(self, folder: str, modality: str = "image") -> None:
        self.folder, self.modality = folder, modality

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add them."""
        shards = _shards(self.folder)
        key = view_key(self.modality, results, self.folder)
        if key not in shards:
            shards.refresh()
        if key not in shards:
            raise ValueError(
                f"{self.folder} has no features of {results[RECORD_KEYS[self.modality]]} for seed "
                f"{results['seed']}. Compute what is missing: mmonepeace distill CONFIG --features "
                f"{self.folder} --features-only"
            )
        found = shards.take([key])
        ((shard, first, count),) = found.where.tolist()
        target = found.shards[shard][first : first + count].clone()
        results.setdefault("inputs", {})[f"{self.modality}_target"] = target
        return results


def view_key(modality: str, record: Mapping[str, Any], folder: str) -> str:
    """The key of a view of a file: of the file, see `item_keys`, and the seed of what is random.

    Raises:
        MissingError: if there is no such file.
    """
    path, errors = str(record[RECORD_KEYS[modality]]), dict[str, str]()
    keys = item_keys(modality, [path], Path(folder).resolve(), errors)
    if path not in keys:
        raise MissingError(errors[path])
    return json.dumps({**json.loads(keys[path]), "seed": list(record["seed"])})


@lru_cache(maxsize=4)
def _shards(folder: str) -> FeatureShards:
    """Of a process: data sets of training and validation, and their copies, share them."""
    return FeatureShards(Path(folder))
