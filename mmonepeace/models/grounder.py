"""Visual grounding: the box of what a phrase names.

Shapes: B batch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mmonepeace.models.classifier import Inputs, OnePeaceClassifier, targets
from mmonepeace.models.task_losses import box_losses
from mmonepeace.registry import MODELS


@MODELS.register_module()
class OnePeaceGrounder(OnePeaceClassifier):
    """`OnePeaceClassifier` whose four outputs are the corners of a box, after a sigmoid.

    Args:
        backbone: see `OnePeaceClassifier`.
        head: the same, without `num_classes`.
        pool_over: "image" as in the released models of RefCOCO and RefCOCO+; "text" in that of
            RefCOCOg.
        data_preprocessor: see `OnePeaceClassifier`.
        init_cfg: the same.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any] | None = None,
        pool_over: str = "image",
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        head = {**(head or {}), "num_classes": 4}
        super().__init__(
            backbone, head, pool_over, data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )

    def forward(
        self,
        inputs: Inputs,
        data_samples: Sequence[Any] | None = None,
        mode: Literal["tensor", "predict", "loss"] = "tensor",
    ) -> Any:
        """Find boxes.

        Args:
            inputs: "text" and "image"; images are resized without keeping their ratio.
            data_samples: one `BaseDataElement` for each sample, with `ori_shape`, height and width
                of the original image, and for "loss" `gt_box` (4,) in its pixels.
            mode: "tensor" returns boxes in fractions of the sides; "predict" puts those of each
                sample, in pixels of the original image, into its data sample as `pred_box`; "loss"
                compares them with the true ones.

        Returns:
            (B, 4) corners x0, y0, x1, y1, the data samples, or losses by name.
        """
        # Coordinates need float32: in bfloat16, half of an image has 128 places.
        boxes_B4 = self.logits(inputs).float().sigmoid()
        if mode == "tensor":
            return boxes_B4
        sides_B4 = _sides(data_samples).to(boxes_B4.device)
        if mode == "loss":
            l1, iou = box_losses(boxes_B4, targets(data_samples, "gt_box") / sides_B4)
            return {"loss_l1": l1, "loss_giou": iou}
        return self.set_prediction(data_samples, "pred_box", list(boxes_B4 * sides_B4), mode)

    def task(self) -> dict[str, Any]:
        """See `BackboneModel`."""
        return {"type": "OnePeaceGrounder", "pool_over": self.pool_over}


def _sides(data_samples: Sequence[Any] | None) -> Tensor:
    """(B, 4) width and height, twice, of the original images."""
    shapes = [sample.get("ori_shape") for sample in data_samples or ()]
    if not shapes or None in shapes:
        raise ValueError(
            "the data samples have no ori_shape, the size of the original image, which boxes are "
            "given in. Load images with LoadImage."
        )
    return torch.tensor([(width, height) * 2 for height, width in shapes], dtype=torch.float32)
