"""Base of the models with an `OnePeace` as backbone."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import nn

from mmonepeace import checkpoint
from mmonepeace.models.initialization import reset_weight
from mmonepeace.models.onepeace import OnePeace
from mmonepeace.models.preprocessor import MultimodalDataPreprocessor
from mmonepeace.registry import MODELS


class BackboneModel(BaseModel):
    """A model with an `OnePeace` as `backbone` and parameters of its own.

    Args:
        backbone: config of `OnePeace`.
        data_preprocessor: config; by default `MultimodalDataPreprocessor`.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)` with a file of any official or own
            layout.
    """

    # Regular expressions of parameters that a checkpoint in `init_cfg` may lack.
    allow_missing: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        backbone: dict[str, Any],
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        # Classes, not names: looking a name up would import every model, mmseg's too.
        super().__init__(data_preprocessor or dict(type=MultimodalDataPreprocessor), init_cfg)
        self.backbone = MODELS.build({"type": OnePeace, **backbone})

    def reset_parameters(self, module: nn.Module) -> None:
        """Initialise a head as the official code does: truncated normal weights, zero biases."""
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                reset_weight(parameter, self.backbone.init_std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def init_weights(self) -> None:
        """Load the checkpoint of `init_cfg`, if there is one, or that of the backbone."""
        if self.init_cfg:
            path = self.init_cfg["checkpoint"]
            converted = checkpoint.read_own(path)
            self.leave_out(converted, path)
            report = self.load_checkpoint(path, self.allow_missing, converted)
            print_log(f"{path}:\n{report}", logger="current")
        else:
            self.backbone.init_weights()
        self._is_init = True

    def leave_out(self, converted: checkpoint.Conversion, path: str) -> None:
        """Remove what training does not start from, of the weights of a checkpoint in `init_cfg`."""

    def load_checkpoint(
        self,
        path: str,
        allow_missing: Sequence[str] = (),
        converted: checkpoint.Conversion | None = None,
    ) -> checkpoint.LoadReport:
        """Load a checkpoint of the entire model or of its backbone, see `OnePeace`.

        `converted` is what `checkpoint.read_own` gave for it, if it has been read.
        """
        return checkpoint.load_checkpoint(self, path, allow_missing, converted)

    def task(self) -> dict[str, Any]:
        """What no weight tells of the task, such as `type`, see `checkpoint.infer_model`."""
        raise NotImplementedError

    def metadata(self) -> dict[str, str]:
        """What a checkpoint of this model has to say besides its weights."""
        return {**self.backbone.metadata(), "task": json.dumps(self.task())}

    @staticmethod
    def set_prediction(
        data_samples: Sequence[Any] | None, field: str, values: Sequence[Any], mode: str
    ) -> Sequence[Any]:
        """Finish `forward(mode="predict")`: put a value into each data sample.

        Raises:
            ValueError: if the mode is not "predict", or there are no data samples.
        """
        if mode != "predict" or data_samples is None:
            raise ValueError(
                f"mode is {mode!r}, data_samples are {'' if data_samples else 'not '}given; "
                "expected 'tensor', or 'predict' with data_samples."
            )
        for sample, value in zip(data_samples, values, strict=True):
            sample.set_field(value, field)
        return data_samples
