"""Classification of videos: actions of Kinetics-400, motions.

Shapes: B videos, V views of each, T frames, C classes, D width.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmonepeace.models.base import BackboneModel
from mmonepeace.models.classifier import Inputs, OnePeaceClassifier
from mmonepeace.models.onepeace_video import NOT_IN_IMAGES, OnePeaceVideo
from mmonepeace.models.task_losses import ClassLoss
from mmonepeace.registry import MODELS


class FrameMeanHead(nn.Module):
    """Mean over the frames, dropout, linear.

    Args:
        dim: width of the encoder.
        num_classes: outputs.
        dropout: of the mean; officially 0.5.

    Raises:
        ValueError: if there is no class.
    """

    num_views = 1

    def __init__(self, dim: int, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes of the head is {num_classes}, expected 1 or more.")
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(dim, num_classes)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, C)."""
        return self.fc_cls(self.dropout(x_BTD.mean(1)))


@MODELS.register_module()
class OnePeaceVideoClassifier(OnePeaceClassifier):
    """The class of a video, from the mean of the CLS of its frames.

    Args:
        backbone: config of `OnePeaceVideo`.
        head: options of `FrameMeanHead`: num_classes and dropout.
        loss: config of a `ClassLoss`.
        interval: of the frames of a clip in those of a video, for whoever uses a checkpoint, see
            `VideoClip`; None: over the entire video. Training follows its data set.
        data_preprocessor: config; by default `MultimodalDataPreprocessor`.
        init_cfg: `dict(type="Pretrained", checkpoint=PATH)`, also with a checkpoint of images.

    Raises:
        ValueError: if the loss is not one of one class.
    """

    allow_missing: ClassVar[tuple[str, ...]] = ("head.", *NOT_IN_IMAGES)

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        loss: dict[str, Any] | None = None,
        interval: int | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        backbone = {"type": OnePeaceVideo, **backbone}
        BackboneModel.__init__(self, backbone, data_preprocessor, init_cfg)
        self.head: Any = FrameMeanHead(self.backbone.arch.embed_dim, **head)
        self.reset_parameters(self.head)
        self.loss = MODELS.build(loss or dict(type=ClassLoss))
        if not isinstance(self.loss, ClassLoss):
            raise ValueError(  # noqa: TRY004  (a setting)
                f"the loss is {type(self.loss).__name__}; a video has one class: ClassLoss."
            )
        self.pool_over = None
        self.num_candidates = 1
        self.interval = interval
        self.clip = (self.backbone.adapters["image"].temporal_embed.shape[1], interval)
        self.classes: tuple[str, ...] | None = None

    @property
    def num_outputs(self) -> int:
        """Classes."""
        return int(self.head.fc_cls.out_features)

    def task(self) -> dict[str, Any]:
        """See `BackboneModel`."""
        facts = {
            "type": "OnePeaceVideoClassifier",
            "interval": self.interval,
            "classes": self.classes,
        }
        return {key: value for key, value in facts.items() if value is not None}

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, C), whose softmax are the probabilities.

        Args:
            inputs: "video" -> (B, T, 3, H, W), or (B, V, T, 3, H, W) with several views of each video,
                whose probabilities are averaged.
        """
        if not isinstance(inputs, dict) or set(inputs) != {"video"}:
            given = tuple(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(f"inputs are {given}; expected video. Load it with LoadVideo.")
        videos = inputs["video"]
        if videos.ndim < 6:
            return self.head(self.backbone(videos))
        logits_BVC = self.head(self.backbone(videos.flatten(0, 1))).unflatten(0, videos.shape[:2])
        log_sums = torch.logsumexp(logits_BVC.float().log_softmax(-1), 1)
        return log_sums - math.log(videos.shape[1])
