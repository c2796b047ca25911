"""Transforms for pipelines of any MM library, between its own."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import BaseTransform

from mmonepeace.registry import TRANSFORMS

Results = dict[str, Any]


@TRANSFORMS.register_module()
class Cached(BaseTransform):
    """Transforms that are not random, run once for each sample of a data set of MMEngine.

    What they add and change is kept in memory, in each worker, and copied into the sample whenever it
    is drawn again: for small data sets, whose files would be decoded hundreds of times.

    Args:
        transforms: configs, in order; of any library.
    """

    def __init__(self, transforms: Sequence[Mapping[str, Any]]) -> None:
        self.transforms = [TRANSFORMS.build(transform) for transform in transforms]
        self.kept: dict[int, Results] = {}

    def transform(self, results: Results) -> Results | None:
        """Add what the transforms make of the sample of that `sample_idx`; None if one leaves it out."""
        index = results["sample_idx"]
        if index not in self.kept:
            made = copy.deepcopy(results)
            for step in self.transforms:
                if (made := step(made)) is None:
                    return None
            self.kept[index] = {k: v for k, v in made.items() if v is not results.get(k)}
        return {**results, **copy.deepcopy(self.kept[index])}
