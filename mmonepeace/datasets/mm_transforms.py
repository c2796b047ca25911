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


@TRANSFORMS.register_module()
class ShrinkLabels(BaseTransform):
    """Keep one label of each square of a label map, for a loss at the stride of the head's maps.

    It is taken from the middle. mmseg's `SegRescale` takes the corner, so that predictions are
    (factor - 1) / 2 pixels off. Sides have to be multiples of the factor. All images of a batch need
    one size, see `Pad`: mmseg pads labels by as many pixels as images, whatever their size.

    Args:
        factor: side of the squares in pixels.
    """

    def __init__(self, factor: int) -> None:
        if factor < 1:
            raise ValueError(f"factor is {factor}, expected pixels, 1 or more.")
        self.factor = factor

    def transform(self, results: Results) -> Results:
        """(H, W) -> (H / factor, W / factor) for each of `seg_fields`."""
        for field in results["seg_fields"]:
            labels = results[field]
            if any(side % self.factor for side in labels.shape):
                raise ValueError(
                    f"labels are {' x '.join(map(str, labels.shape))}, expected multiples of "
                    f"{self.factor}: put Pad with size_divisor={self.factor} before ShrinkLabels."
                )
            middle = self.factor // 2
            results[field] = labels[middle :: self.factor, middle :: self.factor]
        return results
