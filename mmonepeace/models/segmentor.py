"""mmsegmentation's segmentor, for images of different sizes in one call.

The one module of the package that imports mmseg: a segmentor has no other way to be one.
"""

from collections import defaultdict
from typing import Any

from mmseg.models import EncoderDecoder as MMSegEncoderDecoder

from mmonepeace.registry import MODELS


@MODELS.register_module()
class EncoderDecoder(MMSegEncoderDecoder):
    """`mmseg.EncoderDecoder` that also takes lists of images of different sizes when testing.

    Images of one size still share a batch, so that a list gives exactly what single calls give.
    """

    def val_step(self, data: dict[str, Any]) -> list:
        """Predict a batch whose images may differ in size.

        Args:
            data: `inputs`, images (3, H, W), and `data_samples`, one for each.

        Returns:
            predictions in the order of the inputs.
        """
        groups = defaultdict(list)
        for i, image in enumerate(data["inputs"]):
            groups[image.shape].append(i)
        if len(groups) == 1:
            return super().val_step(data)
        results = {}
        for members in groups.values():
            part = {key: values and [values[i] for i in members] for key, values in data.items()}
            results.update(zip(members, super().val_step(part), strict=True))
        return [results[i] for i in range(len(results))]

    def test_step(self, data: dict[str, Any]) -> list:
        """As `val_step`."""
        return self.val_step(data)
